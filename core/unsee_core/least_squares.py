"""One projection changed so that some inputs give other outputs and all the others stay: exactly, by one solve."""

import torch
from torch import Tensor

from unsee_core.lora import LoraPair


def solve_change(gram: Tensor, cross: Tensor) -> Tensor:
    """Return the change dW that minimises ``sum_i w_i |dW k_i - r_i|^2 + |dW|_C^2``.

    Args:
        gram: ``(d_in, d_in)`` ``sum_i w_i k_i k_i^T + C``, positive definite; C weighs what must not change.
        cross: ``(d_in, d_out)`` ``sum_i w_i k_i r_i^T``.

    Returns:
        ``(d_out, d_in)``, float32.

    Source: ridge regression, as UCE, arXiv:2308.14761, and EMCID, arXiv:2403.13807, use it.
    """
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram)).T


def low_rank(change: Tensor, gram: Tensor, output_metric: Tensor | None, rank: int) -> LoraPair:
    """Return the factors of the given rank that are nearest to a change on the inputs that occur.

    Minimises ``tr (dW - B A) gram (dW - B A)^T`` with outputs measured in ``output_metric``: the singular value
    decomposition of ``S^T dW L``, with ``gram = L L^T`` and ``output_metric = S S^T``.

    Args:
        change: ``(d_out, d_in)``.
        gram: ``(d_in, d_in)`` second moment of the inputs, positive definite.
        output_metric: ``(d_out, d_out)``, positive definite; None: the plain distance.
        rank: of the factors, at most ``d_out``.

    Returns:
        Float32 factors on the CPU; ``b @ a`` is the change.
    """
    inputs = torch.linalg.cholesky(gram.double())
    seen = change.double() @ inputs
    outputs = None if output_metric is None else torch.linalg.cholesky(output_metric.double())
    if outputs is not None:
        seen = outputs.T @ seen
    _, vectors = torch.linalg.eigh(seen @ seen.T)  # its left singular vectors, ascending
    left = vectors[:, -rank:]  # (d_out, r)
    a = torch.linalg.solve_triangular(inputs, left.T @ seen, upper=False, left=False)
    b = left if outputs is None else torch.linalg.solve_triangular(outputs.T, left, upper=True)
    size = (a.norm(dim=1) / b.norm(dim=0)).sqrt()[:, None].clamp_min(1e-12)  # both factors equally large
    return LoraPair(a=(a / size).float().cpu(), b=(b * size.T).float().cpu())
