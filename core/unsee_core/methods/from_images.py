"""Images alone: without a name, what they show is learned as pseudo-words and named, and any method erases all of it.

1. Textual inversion through the frozen encoder learns pseudo-words of one and of two tokens.
2. The words of the vocabulary that point where the pseudo-words do, from the empty prompt, as cross-attention sees it,
   are candidates for the name: each pseudo-word's nearest first, sixteen in all.
3. The candidate under which the U-Net denoises the images best, at little noise, is the name, if it is clearly ahead of
   the others that do not mean the same.
4. Where none is, nothing is erased by name, and the nearest everyday words leave the retain prompts, which would hold
   what is to be erased.

On the embedded model, by a throw-away script, from five pictures each of the 25 objects of the half that it was tuned
on, among the fourteen words nearest to the name: it is the best for all, at these timesteps by 6 % (rabbit), 8 %
(tomato, wolf) or more. At 0.2-0.5 of all a rabbit is ahead by 2 %; at 0.3-0.6 and above a cake explains it better.
Without step 2, among all 78 nouns, 23 of 25 objects: an octopus explains what is pink.

Sources: An Image is Worth One Word, arXiv:2208.01618; Your Diffusion Model is Secretly a Zero-Shot Classifier,
arXiv:2303.16203, for the third step; BLIP-Diffusion, arXiv:2305.14720, for the thought that a picture becomes a subject
in the space of words. Ours: no network is trained for it, and what is found is erased, not drawn.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unsee_core.answers import EraseProgress
from unsee_core.conditioning import Conditioner
from unsee_core.encoder import EncoderTail, with_positions
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.inversion import Budget, Inversion, InversionProgress, invert, templates_of
from unsee_core.job import Concept, ConceptKind
from unsee_core.methods.base import EraseContext
from unsee_core.methods.retaining import ENCODE_BATCH
from unsee_core.metric import cross_attention_metric
from unsee_core.near_words import same_names
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import everyday_words, with_article
from unsee_core.pseudo_words import PseudoWord, placeholder, prompt_vectors

TOKENS = (1, 2)
STEPS = 80
NEAR = 0.9  # of the nearest word's cosine
CANDIDATES = 16
NOISE = (0.1, 0.4)  # timesteps, as shares of all
ROWS = 20  # noised images under each candidate, at least
CLEAR = 0.97  # the most of another word's loss that the name's is
_COMPARED: dict[ConceptKind, str] = {"style": "a picture in {} style", "person": "a photo of {}"}
Steps = Generator[EraseProgress, None, EraseContext]


def named_by_images(context: EraseContext) -> Steps:
    """Learn pseudo-words from the context's images and name them, yielding after every step.

    Args:
        context: with at least one image; of its concept only the kind is read.

    Returns:
        The context with the name that was found and the placeholders as synonyms; without one with the placeholders as
        name and synonym, and the words near them. With the pseudo-words in either case.
    """
    pipeline, job = context.pipeline, context.job
    generator = torch.Generator().manual_seed(job.seed)
    latents, encoder = encode_latents(pipeline, context.images), EncoderTail(pipeline, 0)
    kind = job.concept.kind
    known = known_words(pipeline, kind)
    learning, total = len(TOKENS) * STEPS, len(TOKENS) * STEPS + min(CANDIDATES, len(known))

    # 1. Pseudo-words.
    words: list[PseudoWord] = []
    for number, tokens in enumerate(TOKENS):
        budget = Budget(tokens=tokens, steps=STEPS, restarts=1, patience=STEPS)
        steps = invert(pipeline, latents, encoder, budget, generator=generator, templates=templates_of(kind))
        found = yield from _told(steps, done=number * STEPS, total=total)
        words.append(PseudoWord(placeholder(number), found.word.vectors))

    # 2. Their name.
    candidates = candidates_for(pipeline, encoder, words, kind, known)
    losses = []
    rows = _Rows(pipeline, latents, generator)
    for number, candidate in enumerate(candidates, start=1):
        losses.append(rows.loss(_compared(kind, candidate)))
        yield EraseProgress("prepare", learning + number, total)
    name = clear_name(pipeline, candidates, losses)

    # 3. What is erased.
    first, *others = [name] * bool(name) + [word.placeholder for word in words]
    concept = Concept(first, tuple(others), kind)
    near = () if name else near_words(pipeline, encoder, words, kind)
    return replace(context, job=replace(job, concept=concept), words=tuple(words), near_words=near)


def known_words(pipeline: Pipeline, kind: ConceptKind) -> tuple[str, ...]:
    """Return the words of the model's vocabulary that may name a concept of a kind; else the everyday words."""
    vocabulary = pipeline.vocabulary
    sections = {"style": vocabulary.looks, "person": vocabulary.people}
    found = sections.get(kind, (*vocabulary.nouns, *vocabulary.further))
    return tuple(dict.fromkeys(found)) or everyday_words(kind)


def candidates_for(
    pipeline: Pipeline, encoder: EncoderTail, words: Sequence[PseudoWord], kind: ConceptKind, known: Sequence[str]
) -> tuple[str, ...]:
    """Return up to ``CANDIDATES`` of the known words: every pseudo-word's nearest, then every one's next, and so on."""
    cosines = _cosines(pipeline, encoder, words, kind, known)
    ranks = cosines.argsort(dim=1, descending=True).argsort(dim=1).amin(0)
    nearest = ranks.argsort(stable=True)[:CANDIDATES].tolist()
    return tuple(known[i] for i in nearest)


def clear_name(pipeline: Pipeline, candidates: Sequence[str], losses: Sequence[float]) -> str:
    """Return the candidate of the least loss, if it is clear of all that do not mean the same; else ""."""
    best, least = min(zip(candidates, losses, strict=True), key=lambda pair: pair[1])
    same = same_names(pipeline, [best])
    others = [loss for word, loss in zip(candidates, losses, strict=True) if word.lower() not in same]
    return best if others and least <= CLEAR * min(others) else ""


def near_words(
    pipeline: Pipeline, encoder: EncoderTail, words: Sequence[PseudoWord], kind: ConceptKind
) -> tuple[str, ...]:
    """Return the everyday words of a kind that may name what pseudo-words do: of each the nearest and the next to it.

    Args:
        pipeline: the resident model; read only.
        encoder: the frozen encoder from its first layer on.
        words: at least one.
        kind: of the concept; chooses the everyday words, and the template that all are compared in.
    """
    everyday = everyday_words(kind)
    cosines = _cosines(pipeline, encoder, words, kind, everyday)
    near = (cosines >= NEAR * cosines.amax(1, keepdim=True)).any(0).tolist()
    return tuple(word for word, is_near in zip(everyday, near, strict=True) if is_near)


class _Rows:
    """The images with noise, the same for every prompt; at little noise, where a wrong word costs more than none."""

    def __init__(self, pipeline: Pipeline, latents: Tensor, generator: torch.Generator) -> None:
        rows = max(ROWS, len(latents))
        self._conditioner, self._image_loss = Conditioner(pipeline), ImageLoss(pipeline)
        self._latents = latents[torch.arange(rows) % len(latents)]
        self._noise = torch.randn(self._latents.shape, generator=generator)
        self._timesteps = self._image_loss.timesteps_between(*NOISE, rows)[torch.randperm(rows, generator=generator)]

    @torch.no_grad()
    def loss(self, prompt: str) -> float:
        embeddings = self._conditioner.encode([prompt], []).expand(len(self._latents), -1, -1)
        return float(self._image_loss(self._latents, self._noise, self._timesteps, embeddings).mean())


@torch.no_grad()
def _cosines(
    pipeline: Pipeline, encoder: EncoderTail, words: Sequence[PseudoWord], kind: ConceptKind, known: Sequence[str]
) -> Tensor:
    """Return the cosine of each pseudo-word's direction with each word's, ``(pseudo-words, words)``."""
    prompts = ["", *(_compared(kind, name) for name in (*known, *(word.placeholder for word in words)))]
    batches = [prompts[i : i + ENCODE_BATCH] for i in range(0, len(prompts), ENCODE_BATCH)]
    vectors = (with_positions(pipeline, prompt_vectors(pipeline, batch, words)) for batch in batches)
    embeddings = torch.cat([encoder(hidden) for hidden in vectors])
    directions = embeddings[1:] - embeddings[0]  # (n, 77, d)
    seen = (directions @ cross_attention_metric(pipeline.unet)).flatten(1)
    products = seen[len(known) :] @ directions.flatten(1).T
    lengths = (seen * directions.flatten(1)).sum(1).clamp_min(1e-12).sqrt()
    return (products / lengths / lengths[len(known) :, None])[:, : len(known)]


def _compared(kind: ConceptKind, name: str) -> str:
    return _COMPARED.get(kind, "a photo of {a}").format(name, a=with_article(name))


def _told(
    steps: Generator[InversionProgress, None, Inversion], *, done: int, total: int
) -> Generator[EraseProgress, None, Inversion]:
    """Pass an inversion's steps on as those of an erasure."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            found: Inversion = end.value
            return found
        yield EraseProgress("prepare", done + event.step, total, {"inversion": event.loss})
