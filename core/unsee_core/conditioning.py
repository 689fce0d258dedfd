"""Prompts and adapters -> the embeddings that the U-Net reads."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from unsee_core.encoder import apply_factors, hidden_before, shared_tail, tokenize
from unsee_core.lora import LoraFactors
from unsee_core.pipeline import Pipeline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class AppliedAdapter:
    """An adapter's factors and the weight on them; the digest stands for the factors in caches."""

    digest: str
    factors: LoraFactors
    weight: float


class Conditioner:
    """Encodes prompts through any set of adapters; the resident encoder is only read. For one thread.

    Every prompt is encoded by itself, so that its embedding does not depend on what else is asked for or cached.

    Args:
        pipeline: the resident model.
        cache_size: how many embeddings are kept, on the device; least recently used ones leave first.

    Attributes:
        cache_hits: prompts that were found in the cache.
        cache_misses: prompts that had to be encoded.
    """

    def __init__(self, pipeline: Pipeline, *, cache_size: int = 1024) -> None:
        self.cache_hits = 0
        self.cache_misses = 0
        self._pipeline = pipeline
        self._embeddings: _Cache[tuple[str, tuple[tuple[str, float], ...]], Tensor] = _Cache(cache_size)
        self._prefixes: _Cache[tuple[str, int], Tensor] = _Cache(cache_size)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], adapters: Sequence[AppliedAdapter] = ()) -> Tensor:
        """Return ``(B, max_tokens, d)`` embeddings in the U-Net's dtype, on its device.

        Without adapters, or with weights of 0 alone, exactly what diffusers' own pipeline passes to the U-Net.
        """
        active = [adapter for adapter in adapters if adapter.weight != 0]
        applied = tuple((adapter.digest, adapter.weight) for adapter in active)
        known = {prompt: self._embeddings.get((prompt, applied)) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, embedding in known.items() if embedding is None]
        self.cache_hits += len(known) - len(missing)
        self.cache_misses += len(missing)
        for prompt, encoded in zip(missing, self._encoded(missing, active), strict=True):
            known[prompt] = self._embeddings.put((prompt, applied), encoded.to(self._pipeline.dtype))
        return torch.cat([embedding for prompt in prompts if (embedding := known[prompt]) is not None])

    def _encoded(self, prompts: Sequence[str], adapters: Sequence[AppliedAdapter]) -> Iterator[Tensor]:
        """Yield ``(1, max_tokens, d)`` for each prompt."""
        if not adapters:
            for prompt in prompts:
                input_ids, _ = tokenize(self._pipeline, [prompt])
                yield self._pipeline.text_encoder(input_ids.to(self._pipeline.device))[0]
            return
        tail = shared_tail(self._pipeline, min(adapter.factors.first_layer for adapter in adapters))
        changed = apply_factors(tail, [(adapter.factors, adapter.weight) for adapter in adapters])
        for prompt in prompts:
            yield functional_call(tail, changed, (self._prefix(prompt, tail.first_layer),))

    def _prefix(self, prompt: str, layer: int) -> Tensor:
        hidden = self._prefixes.get((prompt, layer))
        if hidden is None:
            input_ids, _ = tokenize(self._pipeline, [prompt])
            hidden = self._prefixes.put((prompt, layer), hidden_before(self._pipeline, input_ids, layer))
        return hidden


class _Cache(Generic[K, V]):
    """Keeps so many values; those not used for longest leave first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: K, value: V) -> V:
        self._values[key] = value
        while len(self._values) > self._size:
            self._values.popitem(last=False)
        return value
