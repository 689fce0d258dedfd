"""Distances between embeddings as the U-Net sees them: it reads text only through its cross-attention."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_known: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


@torch.no_grad()
def cross_attention_metric(unet: nn.Module) -> Tensor:
    """Return the symmetric ``(d, d)`` float32 matrix M in which ``x M x`` is what the U-Net sees of ``x``.

    The sum of ``W^T W / |W|_F^2`` over all key and value projections W of the cross-attention, scaled to trace d, so
    that M is the identity for a U-Net that sees all directions alike. Computed once for a U-Net; a copy.

    Args:
        unet: a UNet2DConditionModel, on any device, in any dtype, whose weights stay as they are.
    """
    if unet in _known:
        return _known[unet].clone()
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    weights = [weight.float() for name, weight in unet.named_parameters() if name.endswith(names)]
    metric = torch.stack([weight.T @ weight / weight.square().sum() for weight in weights]).sum(0)
    _known[unet] = metric * (len(metric) / metric.trace())
    return _known[unet].clone()


def seen_distance(metric: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the distances of ``(n, L, d)`` embeddings, ``(n,)``: root of the sum over positions of ``x M x``."""
    difference = first - second
    return (difference @ metric * difference).sum(dim=(1, 2)).clamp_min(0).sqrt()
