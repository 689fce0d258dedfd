"""Prompts and adapters -> the embeddings that the U-Net reads."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.adapter import LoraFactors
from unsee_core.encoder import EncoderTail, apply_factors, hidden_before, tokenize
from unsee_core.pipeline import Pipeline

_Key = tuple[str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class AppliedAdapter:
    """An adapter's factors and the weight on them; the digest stands for the factors in caches."""

    digest: str
    factors: LoraFactors
    weight: float


class Conditioner:
    """Encodes prompts through any set of adapters; the resident encoder is only read.

    Args:
        cache_size: how many embeddings are kept; least recently used ones leave first.

    Attributes:
        cache_hits: prompts that were found in the cache.
        cache_misses: prompts that had to be encoded.
    """

    def __init__(self, pipeline: Pipeline, *, cache_size: int = 1024) -> None:
        self._pipeline = pipeline
        self._cache_size = cache_size
        self._embeddings: OrderedDict[_Key, Tensor] = OrderedDict()
        self._tail: EncoderTail | None = None
        self._lock = threading.Lock()
        self.cache_hits = 0
        self.cache_misses = 0

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], adapters: Sequence[AppliedAdapter] = ()) -> Tensor:
        """Return ``(B, max_tokens, d)`` embeddings in the U-Net's dtype, on its device.

        Without adapters, or with weights of 0 alone, exactly what diffusers' own pipeline passes to the U-Net.
        """
        active = [adapter for adapter in adapters if adapter.weight != 0]
        names = tuple((adapter.digest, adapter.weight) for adapter in active)
        with self._lock:
            missing = [p for p in dict.fromkeys(prompts) if (p, names) not in self._embeddings]
            self.cache_hits += len(prompts) - len(missing)
            self.cache_misses += len(missing)
            known = {p: self._embeddings[p, names] for p in prompts if p not in missing}
            if missing:
                known |= zip(missing, self._encode(missing, active), strict=True)
            for prompt in prompts:
                self._embeddings[prompt, names] = known[prompt]
                self._embeddings.move_to_end((prompt, names))
            while len(self._embeddings) > self._cache_size:
                self._embeddings.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])

    def _encode(self, prompts: Sequence[str], adapters: Sequence[AppliedAdapter]) -> Tensor:
        input_ids, _ = tokenize(self._pipeline, prompts)
        if not adapters:
            embeddings: Tensor = self._pipeline.text_encoder(input_ids.to(self._pipeline.device))[0]
            return embeddings.to(self._pipeline.dtype)
        tail = self._tail_from(min(adapter.factors.first_layer for adapter in adapters))
        parameters = apply_factors(tail, [(adapter.factors, adapter.weight) for adapter in adapters])
        hidden = hidden_before(self._pipeline, input_ids, tail.first_layer)
        output: Tensor = functional_call(tail, parameters, (hidden,))
        return output.to(self._pipeline.dtype)

    def _tail_from(self, first_layer: int) -> EncoderTail:
        """Return a tail that reaches down to ``first_layer``; the deepest one that was needed is kept."""
        if self._tail is None or self._tail.first_layer > first_layer:
            self._tail = EncoderTail(self._pipeline, first_layer)
        return self._tail
