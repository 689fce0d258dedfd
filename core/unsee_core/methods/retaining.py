"""What every trained method holds: the embeddings of prompts that must stay what they were."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee_core.methods.base import EraseContext
from unsee_core.methods.tail_lora import TailLora
from unsee_core.near_words import same_names
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import packaged_names, retain_prompts
from unsee_core.pseudo_words import PseudoWord, hidden_before_words

ENCODE_BATCH = 64


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts as they enter the first trained layer, ``(n, 77, d)`` float32, and what the encoder makes of them."""

    hidden: Tensor
    embeddings: Tensor

    @classmethod
    def of(
        cls, pipeline: Pipeline, lora: TailLora, prompts: Sequence[str], words: Sequence[PseudoWord] = ()
    ) -> "EncodedPrompts":
        """Return the prompts encoded without the change that ``lora`` has not yet learned.

        Args:
            pipeline: the resident model; read only.
            lora: fresh: its B are zero.
            prompts: at least one.
            words: pseudo-words that placeholders in the prompts stand for.
        """
        batches = [prompts[i : i + ENCODE_BATCH] for i in range(0, len(prompts), ENCODE_BATCH)]
        hidden = [hidden_before_words(pipeline, batch, words, lora.first_layer) for batch in batches]
        with torch.no_grad():
            return cls(torch.cat(hidden), torch.cat([lora(part) for part in hidden]))


class Retaining:
    """A term that grows as retain prompts move: the server's own, the job's, and the empty prompt.

    Of the server's own, those with another name of the concept are left out: "a dog in sketch style" would hold an
    ink sketch.

    Args:
        context: of the erasure.
        lora: fresh: its B are zero.
        rows: retain prompts of one evaluation, besides the empty prompt; the two pools share them.
        empty_rows: how many times the empty prompt, which every guided picture uses, counts beside them.
        generator: draws the prompts, on the CPU.

    Attributes:
        empty: the empty prompt.
    """

    def __init__(
        self, context: EraseContext, lora: TailLora, *, rows: int, empty_rows: int, generator: torch.Generator
    ) -> None:
        pipeline, job = context.pipeline, context.job
        same = same_names(pipeline, job.concept.words, context.words, among=packaged_names())
        pools = (retain_prompts(job.concept, (*context.near_words, *sorted(same))), job.retain_prompts)
        self.empty = EncodedPrompts.of(pipeline, lora, [""])
        self._pools = [EncodedPrompts.of(pipeline, lora, pool) for pool in pools if pool]
        self._variance = (self._pools or [self.empty])[0].embeddings.var()
        self._lora, self._rows, self._empty_rows, self._generator = lora, rows, empty_rows, generator

    def loss(self) -> Tensor:
        """Return how far prompts drawn at random have moved, in units of the embeddings' variance."""
        hidden, targets = [self.empty.hidden] * self._empty_rows, [self.empty.embeddings] * self._empty_rows
        for pool in self._pools:
            picked = shuffled(len(pool.hidden), self._generator)[: self._rows // len(self._pools)]
            hidden.append(pool.hidden[picked])
            targets.append(pool.embeddings[picked])
        moved = self._lora(torch.cat(hidden)) - torch.cat(targets)
        return moved.square().mean() / self._variance


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    """Return the numbers below ``count`` in random order."""
    return torch.randperm(count, generator=generator)
