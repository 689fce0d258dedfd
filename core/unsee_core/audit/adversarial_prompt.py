"""Adversarial prompt tokens: real tokens before the concept's prompt, found by gradient.

The vectors that are optimised are kept apart from those that are read: every step projects them on the nearest tokens,
takes the gradient there, and moves what lies behind. What counts is the prompt as text, tokenized anew, since that is
all that a caller can send.

Source: Hard Prompts Made Easy (PEZ), arXiv:2302.03668, for the projection; UnlearnDiffAtk, arXiv:2310.11868, for the
loss, which is the U-Net's on pictures that the unedited model draws, and for the place before the prompt.
"""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.fixed_loss import FixedLoss
from unsee_core.audit.target import Target
from unsee_core.encoder import token_vectors
from unsee_core.errors import InvalidRequestError
from unsee_core.image_loss import ImageLoss, embedding_gradient
from unsee_core.naming import Naming
from unsee_core.pseudo_words import PseudoWord, placeholder
from unsee_core.random_prefixes import readable

NAME = "adversarial_prompt"
BATCH = 2
CHECK_EVERY = 20
PATIENCE = 40
LEARNING_RATE = 0.5
_ROWS = 8


def run(
    target: Target, suffix: str | None = None, unsaid: Naming | None = None
) -> Generator[AuditProgress, None, Recipe]:
    """Search all restarts at once, yielding after every step, until the budget is spent or nothing gains.

    Args:
        target: what is attacked.
        suffix: stands behind the tokens; None: the prompt that asks for the concept by its name.
        unsaid: names that no prompt may say.

    Raises:
        InvalidRequestError: the suffix says one of the names.
    """
    behind = target.named()[0] if suffix is None else suffix
    if unsaid is not None and (said := unsaid.first_in(behind)) is not None:
        raise InvalidRequestError.of("suffix", f"got {behind!r}, allowed words without {said!r}")
    search, total = _Search(target, behind, unsaid), target.budget.prompt_steps
    best_step = step = 0
    search.check()
    while step < total and step - best_step < PATIENCE:
        step += 1
        search.step()
        if (step % CHECK_EVERY == 0 or step == total) and search.check():
            best_step = step
        yield AuditProgress(NAME, target.side, "search", step, total, search.best_loss)
    embeddings = target.encoder.encode([search.best_prompt])
    return Recipe(embeddings, detail=f"{search.best_prompt} ({step} steps)", loss=search.best_loss)


class _Search:
    """All restarts side by side.

    Attributes:
        best_prompt: of all restarts and steps that were checked.
        best_loss: on fixed noise.
    """

    def __init__(self, target: Target, suffix: str, unsaid: Naming | None) -> None:
        budget, self._target, self._unsaid = target.budget, target, unsaid
        self._generator = target.generator()
        self._numbers = words_of(target, unsaid)
        self._vocabulary = token_vectors(target.pipeline, self._numbers).float()
        self._directions = F.normalize(self._vocabulary, dim=1)
        drawn = torch.randint(len(self._numbers), (budget.restarts, budget.prompt_tokens), generator=self._generator)
        self._behind = self._vocabulary[drawn.to(self._vocabulary.device)].clone()
        self._optimizer = torch.optim.Adam([self._behind], lr=LEARNING_RATE * float(self._vocabulary.std()))
        self._image_loss, self._fixed_loss = ImageLoss(target.pipeline), FixedLoss(target, _ROWS)
        self._suffix = suffix
        self.best_prompt, self.best_loss = self._suffix, float("inf")

    def step(self) -> None:
        """Move what lies behind by the gradient at the nearest tokens."""
        restarts = len(self._behind)
        vectors = self._vocabulary[self._nearest()].requires_grad_()
        words = [PseudoWord(placeholder(i), vectors[i]) for i in range(restarts)]
        prompts = [f"{word.placeholder} {self._suffix}" for word in words]
        embeddings = self._target.encoder.read(prompts, words)
        read = embeddings.detach().repeat_interleave(BATCH, 0).requires_grad_()
        latents, noise, timesteps = self._drawn(len(read))
        loss = self._image_loss(latents, noise, timesteps, read).mean()
        gradient = embedding_gradient(loss, read, latents).unflatten(0, (restarts, BATCH)).sum(1)
        (self._behind.grad,) = torch.autograd.grad(embeddings, vectors, gradient)
        self._optimizer.step()

    def check(self) -> bool:
        """Return whether one of the prompts, as text, is better than all before."""
        prompts = [f"{text} {self._suffix}" for text in self._texts()]
        losses = self._fixed_loss(self._target.encoder.encode(prompts))
        if self._unsaid is not None:
            losses[[self._unsaid.first_in(prompt) is not None for prompt in prompts]] = float("inf")  # by pieces of it
        lowest = int(losses.argmin())
        if float(losses[lowest]) >= self.best_loss:
            return False
        self.best_prompt, self.best_loss = prompts[lowest], float(losses[lowest])
        return True

    def _texts(self) -> Sequence[str]:
        rows = self._numbers[self._nearest().cpu()]
        return [" ".join(self._target.pipeline.tokenizer.decode(row).split()) for row in rows.tolist()]

    def _nearest(self) -> Tensor:
        """Return the places in the vocabulary that lie nearest by direction, ``(restarts, tokens)``."""
        return (F.normalize(self._behind, dim=-1) @ self._directions.T).argmax(-1)

    def _drawn(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        known = self._target.drawn
        latents = known[torch.randint(len(known), (rows,), generator=self._generator)]
        noise = torch.randn(latents.shape, generator=self._generator)
        return latents, noise, torch.randint(self._image_loss.num_timesteps, (rows,), generator=self._generator)


def words_of(target: Target, unsaid: Naming | None = None) -> Tensor:
    """Return the numbers of the tokens that a prompt may be made of, ``(n,)``.

    All that a text alone can give, but for those that say one of the names ``unsaid``.
    """
    pipeline = target.pipeline
    texts = [readable(pipeline, number) for number in range(pipeline.text_encoder.config.vocab_size)]
    allowed = (i for i, text in enumerate(texts) if text and (unsaid is None or unsaid.first_in(text) is None))
    return torch.tensor(list(allowed))
