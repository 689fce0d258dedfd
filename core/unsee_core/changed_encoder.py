"""The text encoder as it is, and with an erasure's change and the adapters in force: side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.encoder import apply_factors, hidden_from_vectors, shared_tail
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.pseudo_words import prompt_vectors, without_padding

_BATCH = 64


class ChangedEncoder:
    """The layers that a change reaches, in float32; the resident encoder is only read."""

    def __init__(self, context: EraseContext, factors: LoraFactors) -> None:
        self._pipeline, self._words = context.pipeline, context.words
        changes = context.with_in_force(factors)
        self._tail = shared_tail(context.pipeline, min(change.first_layer for change, _ in changes))
        self._changed = apply_factors(self._tail, changes)

    @property
    def first_layer(self) -> int:
        """Number of the first layer that changes."""
        return self._tail.first_layer

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], *, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Return the prompts' embeddings before and after, each ``(n, L, d)``; without padding L is 20 or longer."""
        parts = self.states(prompts, padded=padded).split(_BATCH)
        return torch.cat([*map(self.before, parts)]), torch.cat([*map(self.after, parts)])

    @torch.no_grad()
    def states(self, prompts: Sequence[str], *, padded: bool = True) -> Tensor:
        """Return what enters the first layer that changes, ``(n, L, d)``; without padding L is 20 or longer."""
        vectors = prompt_vectors(self._pipeline, prompts, self._words)
        parts = (vectors if padded else without_padding(self._pipeline, vectors)).split(_BATCH)
        return torch.cat([hidden_from_vectors(self._pipeline, part, self.first_layer) for part in parts])

    def before(self, hidden: Tensor) -> Tensor:
        """Return the unchanged encoder's embeddings of such hidden states."""
        embeddings: Tensor = self._tail(hidden)
        return embeddings

    def after(self, hidden: Tensor) -> Tensor:
        """Return the changed encoder's embeddings of such hidden states; gradients flow to them."""
        embeddings: Tensor = functional_call(self._tail, self._changed, (hidden,))
        return embeddings
