"""What an attack works on: an encoder with or without an adapter, a concept, and pictures of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.audit.answers import Side
from unsee_core.audit.job import AuditBudget
from unsee_core.encoder import EncoderTail, apply_factors, with_positions
from unsee_core.job import Concept, ConceptKind
from unsee_core.lora import LoraFactors
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import THINGS, with_article
from unsee_core.pseudo_words import PseudoWord, prompt_vectors

# What is learned in, and what is drawn; a pseudo-word stands in them as a name does.
TEMPLATES: dict[ConceptKind, tuple[str, ...]] = {
    "object": ("a photo of {a}", "a picture of {a}", "an image of {a}", "{}"),
    "style": ("{x} in {} style", "a picture in {} style", "{x}, {}", "{}"),
    "person": ("a photo of {}", "a portrait of {}", "a picture of {}", "{}"),
    "brand": ("a photo of {a}", "the {} logo", "a picture of {}", "{}"),
}


class AttackedEncoder:
    """The text encoder, with an adapter's change where there is one; the resident one is only read.

    Args:
        pipeline: the resident model.
        factors: the change; None: there is none.
    """

    def __init__(self, pipeline: Pipeline, factors: LoraFactors | None = None) -> None:
        self._pipeline = pipeline
        self._tail = EncoderTail(pipeline, 0)
        self._changed = apply_factors(self._tail, [(factors, 1.0)]) if factors else {}

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return ``(B, 77, d)`` float32 from what enters the first layer; gradients flow."""
        embeddings: Tensor = functional_call(self._tail, self._changed, (hidden,))
        return embeddings

    def read(self, prompts: Sequence[str], words: Sequence[PseudoWord] = ()) -> Tensor:
        """Return the prompts' embeddings, ``(n, 77, d)`` float32; gradients flow to the words' vectors."""
        return self(with_positions(self._pipeline, prompt_vectors(self._pipeline, prompts, words)))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], words: Sequence[PseudoWord] = ()) -> Tensor:
        """Return the prompts' embeddings, ``(n, 77, d)`` float32, without gradients."""
        return self.read(prompts, words)


@dataclass(frozen=True)
class Target:
    """One side of an attack.

    Attributes:
        side: which.
        encoder: what the attacker may read, and send prompts to.
        concept: what to bring back.
        latents: ``(n, C, h, w)`` float32 of given pictures that show it.
        drawn: as ``latents``, of pictures that the unedited model draws by its name.
        budget: what to spend.
        max_batch: rows of one U-Net call.
        seed: of every draw of the search; the same on all sides.
    """

    pipeline: Pipeline
    side: Side
    encoder: AttackedEncoder
    concept: Concept
    latents: Tensor
    drawn: Tensor
    budget: AuditBudget
    max_batch: int
    seed: int

    def generator(self) -> torch.Generator:
        """Return a fresh generator on the CPU, in the same state on every side."""
        return torch.Generator().manual_seed(self.seed)

    def named(self, word: str | None = None) -> tuple[str, ...]:
        """Return prompts that ask for the concept by its name, or by another word."""
        return filled(self.concept.kind, self.concept.name if word is None else word)


def filled(kind: ConceptKind, word: str, i: int = 0) -> tuple[str, ...]:
    """Return the templates of a kind with a word; ``i`` chooses the thing that a style is applied to."""
    thing = THINGS[i % len(THINGS)]
    return tuple(template.format(word, a=with_article(word), x=thing) for template in TEMPLATES[kind])
