"""One projection changed so that some inputs give other outputs and all the others stay: by one solve."""

import torch
from torch import Tensor

from unsee_core.lora import LoraPair


def add_second_moment(gram: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """Add ``sum_i w_i k_i k_i^T`` to the upper triangle of ``gram``, and return the weighted keys.

    Three of four quarters are computed; what stands below the diagonal is not to be read.

    Args:
        gram: ``(d, d)``, added to in place.
        keys: ``(n, d)``.
        weights: ``(n,)``.

    Returns:
        ``(n, d)``.
    """
    weighted, half = keys * weights[:, None], len(gram) // 2
    gram[:half].addmm_(weighted[:, :half].T, keys)
    gram[half:, half:].addmm_(weighted[:, half:].T, keys[:, half:])
    return weighted


def solve_low_rank(gram: Tensor, cross: Tensor, output_metric: Tensor | None, rank: int) -> LoraPair:
    """Return factors of the change dW that minimises ``sum_i w_i |dW k_i - r_i|^2 + |dW|_C^2``, cut to a rank.

    ``dW = cross^T gram^-1``. Of all factors of the rank B A is nearest to it on the inputs that occur: it minimises
    ``tr (dW - B A) gram (dW - B A)^T``, outputs measured in ``output_metric``. That is the singular value decomposition
    of ``S^T dW L`` with ``gram = L L^T`` and ``output_metric = S S^T``; ``dW L = (L^-1 cross)^T``, so that dW itself is
    never formed.

    Args:
        gram: ``(d_in, d_in)`` ``sum_i w_i k_i k_i^T + C``, positive definite; C weighs what must not change. Only its
            upper triangle is read.
        cross: ``(d_in, d_out)`` ``sum_i w_i k_i r_i^T``.
        output_metric: ``(d_out, d_out)``, positive definite; None: the plain distance.
        rank: of the factors, at most ``d_out``.

    Returns:
        Float32 factors on the CPU; computed in float64.

    Source: ridge regression, as UCE, arXiv:2308.14761, and EMCID, arXiv:2403.13807, use it.
    """
    inputs = torch.linalg.cholesky(gram.double(), upper=True).T
    seen = torch.linalg.solve_triangular(inputs, cross.double(), upper=False).T  # dW L, (d_out, d_in)
    outputs = None if output_metric is None else torch.linalg.cholesky(output_metric.double())
    if outputs is not None:
        seen = outputs.T @ seen
    _, vectors = torch.linalg.eigh(seen @ seen.T)  # its left singular vectors, ascending
    left = vectors[:, -rank:]  # (d_out, r)
    a = torch.linalg.solve_triangular(inputs, left.T @ seen, upper=False, left=False)
    b = left if outputs is None else torch.linalg.solve_triangular(outputs.T, left, upper=True)
    size = (a.norm(dim=1) / b.norm(dim=0)).sqrt()[:, None].clamp_min(1e-12)  # both factors equally large
    return LoraPair(a=(a / size).float().cpu(), b=(b * size.T).float().cpu())
