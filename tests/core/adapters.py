"""Adapters for tests that store, read or damage them: small, random, of no model."""

from datetime import UTC, datetime

import torch

from unsee_core import adapter
from unsee_core.adapter import AdapterMetadata
from unsee_core.answers import BaseModel, Manifest
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors, LoraPair, NormDelta

BASE = BaseModel("tiny", *(f"sha256:{digit * 64}" for digit in "123"))
METADATA = AdapterMetadata(
    concept=Concept("Katze – 猫", ("cat", 'the "cat"'), "object"),
    method="few_shot_lora",
    strength=0.7,
    rank=3,
    steps=40,
    seed=2**63 - 1,
    settings={"layers": "2", "anchor": ""},
    base_model=BASE,
    versions={"torch": "2.13"},
)


def small_factors(*, seed: int = 0, norm: bool = False) -> LoraFactors:
    """Return factors of two ranks in two layers, of widths 6 and 10."""
    draw = torch.Generator().manual_seed(seed)
    places = {"22.mlp.fc2": (6, 10, 3), "3.mlp.fc1": (10, 6, 2), "22.self_attn.q_proj": (6, 6, 3)}
    pairs = {
        f"text_model.encoder.layers.{place}": LoraPair(
            torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw)
        )
        for place, (d_out, d_in, rank) in places.items()
    }
    delta = NormDelta(*(torch.randn(6, generator=draw) for _ in range(2))) if norm else None
    return LoraFactors(pairs, delta)


def small_bytes(*, seed: int = 0, norm: bool = False) -> bytes:
    """Return such an adapter as it is stored."""
    return adapter.to_bytes(small_factors(seed=seed, norm=norm), METADATA)


def manifest_of(name: str, data: bytes, *, day: int = 1, concept: str = "cat", **labels: str) -> Manifest:
    """Return a manifest for ``data``."""
    return Manifest(
        name=name,
        digest=adapter.digest(data),
        size_bytes=len(data),
        concept=Concept(concept),
        method="few_shot_lora",
        rank=3,
        strength=1.0,
        steps=40,
        seed=0,
        labels=labels,
        create_time=datetime(2026, 1, day, tzinfo=UTC),
        base_model=BASE,
        has_final_norm=False,
    )


def assert_same(found: LoraFactors, expected: LoraFactors) -> None:
    """Assert that two adapters change the same modules by the same factors, bit for bit."""
    assert found.pairs.keys() == expected.pairs.keys()
    for path, pair in expected.pairs.items():
        torch.testing.assert_close(found.pairs[path].a, pair.a, rtol=0, atol=0)
        torch.testing.assert_close(found.pairs[path].b, pair.b, rtol=0, atol=0)
    assert (found.final_norm is None) == (expected.final_norm is None)
    if found.final_norm is not None and expected.final_norm is not None:
        torch.testing.assert_close(found.final_norm.weight, expected.final_norm.weight, rtol=0, atol=0)
        torch.testing.assert_close(found.final_norm.bias, expected.final_norm.bias, rtol=0, atol=0)
