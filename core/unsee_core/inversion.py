"""Pictures -> a pseudo-word: vectors learned so that the U-Net, reading them, denoises the pictures best.

Textual inversion. Only the vectors learn; encoder and U-Net are read. Which encoder reads them is the caller's choice:
the frozen one, to find a name for what pictures show, or one with an adapter, to attack an erasure.

The paper starts at a word that is known to be near and trains 5,000 steps. Ours starts at random words of the
vocabulary, several times where asked, and ends as soon as the loss on fixed noise falls no more.

Source: An Image is Worth One Word, arXiv:2208.01618. Never run on a GPU.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.checks import check_range
from unsee_core.encoder import token_vectors, with_positions
from unsee_core.image_loss import ImageLoss, embedding_gradient
from unsee_core.job import ConceptKind
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import THINGS
from unsee_core.pseudo_words import PseudoWord, placeholder, prompt_vectors

_OBJECT = ("a {}", "a photo of a {}", "a picture of a {}", "{}")
_TEMPLATES: dict[ConceptKind, tuple[str, ...]] = {
    "style": ("a picture in {} style", *(f"{thing} in {{}} style" for thing in THINGS)),
    "person": ("a photo of {}", "a portrait of {}", "a picture of {}", "{}"),
}
CHECK_ROWS = 16
CHECK_EVERY = 10
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """What an inversion may spend.

    Attributes:
        tokens: that the pseudo-word takes in a prompt, 1-16.
        steps: of a restart at most, 1-5000.
        batch: noised pictures a step, 1-64.
        restarts: each from other random words; the best one counts, 1-16.
        learning_rate: of Adam, as a share of the standard deviation of the vocabulary's vectors.
        patience: a restart ends after so many steps without a lower loss.
        least_gain: share of the loss by which it has to fall to count as lower for ``patience``, 0-1.
        race: after so many steps of each restart only the best one goes on, 1-5000; None: all go on to their end.
    """

    tokens: int = 2
    steps: int = 500
    batch: int = 4
    restarts: int = 3
    learning_rate: float = 0.5
    patience: int = 100
    least_gain: float = 0.0
    race: int | None = None

    def __post_init__(self) -> None:
        check_range("tokens", self.tokens, 1, 16)
        check_range("steps", self.steps, 1, 5000)
        check_range("batch", self.batch, 1, 64)
        check_range("restarts", self.restarts, 1, 16)
        check_range("learning_rate", self.learning_rate, 1e-6, 100)
        check_range("patience", self.patience, 1, 5000)
        check_range("least_gain", self.least_gain, 0, 1)
        if self.race is not None:
            check_range("race", self.race, 1, 5000)


@dataclass(frozen=True)
class InversionProgress:
    """A step of a restart is done; ``loss`` is its lowest so far, on noise that is the same for all restarts."""

    restart: int
    step: int
    total: int
    loss: float


@dataclass(frozen=True)
class Inversion:
    """What was found.

    Attributes:
        word: its vectors are ``(tokens, d)`` float32, on the CPU; the placeholder is that of number 0.
        loss: mean squared error on the pictures, at fixed noise and timesteps.
        steps: in all restarts together.
    """

    word: PseudoWord
    loss: float
    steps: int


def templates_of(kind: ConceptKind) -> tuple[str, ...]:
    """Return the prompts in which a concept of a kind is learned; ``{}`` is the pseudo-word."""
    return _TEMPLATES.get(kind, _OBJECT)


def invert(
    pipeline: Pipeline,
    latents: Tensor,
    encode: Encode,
    budget: Budget,
    *,
    generator: torch.Generator,
    templates: Sequence[str] = _OBJECT,
) -> Generator[InversionProgress, None, Inversion]:
    """Learn a pseudo-word that stands for pictures, yielding after every step; ``close()`` stops it.

    Args:
        pipeline: the resident model; read, never written.
        latents: ``(n, C, h, w)`` of the pictures, as ``encode_latents`` gives them.
        encode: the attacked or frozen encoder, from the hidden states entering its first layer, ``(B, 77, d)``
            float32, to the embeddings that the U-Net reads; an ``EncoderTail`` from layer 0 on is one.
        budget: what to spend.
        generator: draws starts, noise, timesteps and pictures, on the CPU.
        templates: prompts to learn in; ``{}`` is the pseudo-word. Default: an object's.

    Returns:
        The best restart's word. Same arguments, device type, thread count and versions: same vectors, bit for bit.
    """
    learning = _Learning(pipeline, latents, encode, budget, generator, templates)
    first_part = budget.steps if budget.race is None else min(budget.race, budget.steps)
    restarts = []
    for number in range(1, budget.restarts + 1):
        restarts.append(_Restart(learning, number))
        yield from restarts[-1].run(first_part)
    best = min(restarts, key=lambda restart: restart.loss)
    yield from best.run(budget.steps)
    word = PseudoWord(placeholder(0), best.vectors.cpu())
    return Inversion(word, best.loss, sum(restart.step for restart in restarts))


class _Restart:
    """Learning from a new start.

    Attributes:
        vectors: the best so far.
        loss: theirs.
        step: how many were done.
    """

    def __init__(self, learning: "_Learning", number: int) -> None:
        self._learning, self._number = learning, number
        self._now = learning.start()
        self._optimizer = torch.optim.Adam([self._now], lr=learning.budget.learning_rate * learning.spread)
        self.vectors, self.loss, self.step = self._now.detach().clone(), learning.loss(self._now), 0
        self._waits_from, self._waits_below = 0, self.loss

    def run(self, until: int) -> Iterator[InversionProgress]:
        """Go on until so many steps are done in all, or the loss falls no more."""
        learning, budget = self._learning, self._learning.budget
        while self.step < until and self.step - self._waits_from < budget.patience:
            self.step += 1
            self._now.grad = learning.gradient(self._now)
            self._optimizer.step()
            if self.step % CHECK_EVERY == 0 or self.step == budget.steps:
                loss = learning.loss(self._now)
                if loss < self.loss:
                    self.vectors, self.loss = self._now.detach().clone(), loss
                if loss < self._waits_below * (1 - budget.least_gain):
                    self._waits_from, self._waits_below = self.step, loss
            yield InversionProgress(self._number, self.step, budget.steps, self.loss)


class _Learning:
    """One pseudo-word's loss and its gradient.

    Attributes:
        spread: standard deviation of the vocabulary's vectors.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        latents: Tensor,
        encode: Encode,
        budget: Budget,
        generator: torch.Generator,
        templates: Sequence[str],
    ) -> None:
        self.budget = budget
        self._pipeline, self._latents, self._encode, self._generator = pipeline, latents, encode, generator
        self._prompts = [template.format(placeholder(0)) for template in templates]
        self._image_loss = ImageLoss(pipeline)
        self._vocabulary = token_vectors(pipeline, torch.arange(pipeline.text_encoder.config.vocab_size)).float()
        self.spread = float(self._vocabulary.std())
        self._fixed_noise = self._noise(CHECK_ROWS)
        self._fixed_timesteps = ((torch.arange(CHECK_ROWS) + 0.5) / CHECK_ROWS * self._image_loss.num_timesteps).long()

    def start(self) -> Tensor:
        """Return the vectors of random words, ``(tokens, d)`` float32, ready to learn."""
        drawn = torch.randint(len(self._vocabulary), (self.budget.tokens,), generator=self._generator)
        return self._vocabulary[drawn.to(self._vocabulary.device)].clone().requires_grad_()

    def gradient(self, vectors: Tensor) -> Tensor:
        """Return the gradient of the loss on pictures, noise, timesteps and prompts drawn anew."""
        rows = self.budget.batch
        latents = self._latents[torch.randint(len(self._latents), (rows,), generator=self._generator)]
        timesteps = torch.randint(self._image_loss.num_timesteps, (rows,), generator=self._generator)
        picked = torch.randint(len(self._prompts), (rows,), generator=self._generator).tolist()
        embeddings = self._embeddings(vectors, picked)
        read = embeddings.detach().requires_grad_()
        loss = self._image_loss(latents, self._noise(rows), timesteps, read).mean()
        (gradient,) = torch.autograd.grad(embeddings, vectors, embedding_gradient(loss, read, latents))
        return gradient

    @torch.no_grad()
    def loss(self, vectors: Tensor) -> float:
        """Return the loss on what is the same at every call, for every restart."""
        numbers = range(CHECK_ROWS)
        latents = self._latents[[i % len(self._latents) for i in numbers]]
        embeddings = self._embeddings(vectors, [i % len(self._prompts) for i in numbers])
        return float(self._image_loss(latents, self._fixed_noise, self._fixed_timesteps, embeddings).mean())

    def _embeddings(self, vectors: Tensor, picked: Sequence[int]) -> Tensor:
        """Return ``(B, 77, d)`` of the prompts with the numbers given; each prompt is encoded once."""
        distinct = sorted(set(picked))
        word = PseudoWord(placeholder(0), vectors)
        hidden = prompt_vectors(self._pipeline, [self._prompts[i] for i in distinct], [word])
        return self._encode(with_positions(self._pipeline, hidden))[[distinct.index(i) for i in picked]]

    def _noise(self, rows: int) -> Tensor:
        return torch.randn((rows, *self._latents.shape[1:]), generator=self._generator)
