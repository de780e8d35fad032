"""Least-squares refit of the kept weights under any mask."""

import torch
from torch import Tensor

from edgeprune.pruning.gram import Gram

_TINY = 1e-20


def refit(
    weight: Tensor, mask: Tensor, gram: Gram, steps: int = 12, start: Tensor | None = None
) -> Tensor:
    """Minimise ``tr (W - V) H (W - V)ᵀ`` over ``V`` that is zero outside the mask.

    Conjugate gradients on the support (ALPS, arXiv 2406.07831), each row by itself, on channels
    scaled to norm 1, which is the Jacobi preconditioner.

    Args:
        weight: (out, in) float32, dense.
        mask: (out, in), True is kept.
        gram: Gram matrix of this layer's input.
        steps: number of conjugate gradient steps; a dozen comes within a few per cent of the exact
            optimum.
        start: (out, in) initial values; by default the dense weights under the mask.

    Returns:
        (out, in), zero outside the mask, never worse than ``start``.
    """
    norms, hessian = gram.norms, gram.normalised
    target = weight * norms
    solution = (weight if start is None else start) * norms * mask
    residual = ((target - solution) @ hessian) * mask
    direction = residual.clone()
    power = residual.square().sum(dim=1, keepdim=True)
    for _ in range(steps):
        curved = (direction @ hessian) * mask
        step = power / (direction * curved).sum(dim=1, keepdim=True).clamp_min(_TINY)
        solution += step * direction
        residual -= step * curved
        new_power = residual.square().sum(dim=1, keepdim=True)
        direction = residual + new_power / power.clamp_min(_TINY) * direction
        power = new_power
    return torch.where(mask, solution / norms, 0)
