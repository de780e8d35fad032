"""Scales that fit kept weights best."""

import torch
from torch import Tensor

from edgeprune.planning.grid import Grid

# Scales tried, as shares of the range that the largest weight needs: above 1 it is clipped, which
# pays the more the fewer bits codes have. By measurement on SmolLM2's layers a finer or wider list
# for 4 bits wins less than 0.5 % of the error.
_SHARES = {
    8: (0.99, 1.0, 1.01),
    4: (0.9, 0.96, 1.0, 1.04, 1.09, 1.15, 1.22, 1.3, 1.4),
    3: (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.65, 1.8),
    2: (1.0, 1.15, 1.3, 1.5, 1.7, 1.95, 2.2, 2.5, 2.9, 3.4),
}
_LEAST_HALF = 2.0**-24  # float16's smallest subnormal, which ggml stores too


def fit(grid: Grid, weight: Tensor, importance: Tensor) -> Tensor:
    """Find scales with the least ``Σ h (w - d q)²`` among candidates that clip more or less.

    Both signs are tried where the grid reaches further down than up. The best one's codes then give
    the closed-form ``d = Σ h w q / Σ h q²``, taken where it is better still.

    Args:
        grid: grid to round to.
        weight: (block, rows): one scale is found for every row.
        importance: (block, rows) or (block, 1), weight ``h`` of each squared error; 0 where a
            weight is pruned, so that no scale serves a zero.

    Returns:
        (rows,) float32, each a float16 number; 0 where a row is all zero.
    """
    wanted = weight * (importance > 0)
    rows = torch.arange(weight.shape[1], device=weight.device)
    extreme = wanted[wanted.abs().argmax(dim=0), rows]
    shares = torch.tensor(_shares(grid), device=weight.device)
    if grid.low != -grid.high:
        shares = torch.cat([shares, -shares])
    tried = half(extreme / (grid.low * shares[:, None]))  # (shares, rows)
    error, index = _errors(grid, weight, importance, tried).min(dim=0)
    best = tried.gather(0, index[None])[0]
    q = codes(grid, weight, best)
    exact = (importance * weight * q).sum(0) / (importance * q * q).sum(0)
    exact = half(torch.where(exact.isfinite(), exact, best))
    better = _errors(grid, weight, importance, exact[None])[0] < error
    return torch.where(better, exact, best)


def one_by_one(weight: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Fit scales and round each weight to nearest; ``importance`` is (in, out)."""
    columns, scales = [], []
    blocks = zip(weight.T.split(grid.block), importance.split(grid.block), strict=True)
    for block, own in blocks:
        scales.append(fit(grid, block, own))
        columns.append(codes(grid, block, scales[-1]) * scales[-1])
    return torch.cat(columns).T.contiguous(), torch.stack(scales, dim=1)


def codes(grid: Grid, weight: Tensor, scale: Tensor) -> Tensor:
    """Compute ``q`` as float32, nearest to ``weight / scale``; 0 where the scale is 0.

    On a masked grid, every weight that is not 0 is kept: its nearest code is not 0.
    """
    inverse = torch.where(scale == 0, 0, 1 / scale)
    if not grid.masked:
        return (weight * inverse).round_().clamp_(grid.low, grid.high)
    wanted = weight * inverse
    found = wanted.round().clamp_(grid.low, grid.high)
    return torch.where(found == 0, wanted.sign(), found)


def slopes(grid: Grid, weight: Tensor, scale: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient of a loss in each scale, from that in the rounded weights.

    ``∂ŵ/∂d`` is ``q - w/d`` inside the grid and ``q`` where a weight is clipped (learned step size,
    Esser et al., 1902.08153). Zeros of a mask say nothing.

    Args:
        grid: the grid.
        weight: (out, in), before rounding.
        scale: (out, in / block).
        gradient: (out, in), of the loss in the rounded weights.

    Returns:
        (out, in / block).
    """
    each = scale.repeat_interleave(grid.block, dim=1)
    wanted = weight * torch.where(each == 0, 0, 1 / each)
    q = codes(grid, weight, each)
    inside = (wanted > grid.low) & (wanted < grid.high)
    change = torch.where(inside, q - wanted, q) * (weight != 0)
    return (gradient * change).unflatten(1, (-1, grid.block)).sum(2)


def _shares(grid: Grid) -> tuple[float, ...]:
    return _SHARES[next(bits for bits in sorted(_SHARES) if bits >= min(grid.bits, 8))]


def _errors(grid: Grid, weight: Tensor, importance: Tensor, scales: Tensor) -> Tensor:
    """Compute weighted squared errors, (scales, rows)."""
    scales = scales[:, None]
    difference = codes(grid, weight, scales).mul_(scales).sub_(weight)
    return difference.square_().mul_(importance).sum(dim=1)


def half(scales: Tensor) -> Tensor:
    """Round scales to float16, as files store them, but never to 0 or infinity."""
    size = scales.abs().clamp(_LEAST_HALF, torch.finfo(torch.float16).max)
    return torch.where(scales == 0, 0, scales.sign() * size).half().float()
