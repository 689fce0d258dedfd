"""Random changes of a text encoder, for tests that need an adapter and not an erasure."""

import torch

from unsee_core.encoder import EncoderTail
from unsee_core.lora import LoraFactors, LoraPair, NormDelta
from unsee_core.pipeline import Pipeline


def random_factors(pipeline: Pipeline, *layers: int, rank: int = 2, seed: int = 0, norm: bool = False) -> LoraFactors:
    """Return random changes of all six projections of the given layers, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    tail = EncoderTail(pipeline, min(layers))
    pairs = {}
    for name, module in tail.named_modules():
        if isinstance(module, torch.nn.Linear) and int(name.split(".")[2]) in layers:
            d_out, d_in = module.weight.shape
            a, b = (torch.randn(shape, generator=generator) * 0.05 for shape in ((rank, d_in), (d_out, rank)))
            pairs[f"text_model.{name}"] = LoraPair(a, b)
    width = pipeline.encoder_width
    delta = NormDelta(*(torch.randn(width, generator=generator) * 0.1 for _ in range(2))) if norm else None
    return LoraFactors(pairs, delta)
