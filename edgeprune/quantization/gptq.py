"""GPTQ (arXiv 2210.17323) under a mask: rounding errors are compensated in later weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.planning.grid import Grid
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.column_loop import column_loop
from edgeprune.quantization.scales import codes, fit, one_by_one

_WIDTH = 128


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix.

    Attributes:
        weight: (out, in), on the grid.
        scales: (out, in / block).
        before: (out, in), each weight as it was when its column's turn came, with what the columns
            before had pushed onto it: its nearest code gives ``weight``. Training goes on from
            here, since a weight in the middle of a step would hardly ever leave it.
    """

    weight: Tensor
    scales: Tensor
    before: Tensor


def round_to_grid(weight: Tensor, gram: Gram, grid: Grid) -> tuple[Tensor, Tensor]:
    """Round a pruned matrix so that its output changes least.

    Returns:
        (out, in) on the grid, and the scales, (out, in / block), of `rounded`.
    """
    found = rounded(weight, gram, grid)
    return found.weight, found.scales


def rounded(weight: Tensor, gram: Gram, grid: Grid) -> Rounded:
    """Round a pruned matrix so that its output changes least.

    Columns are rounded in order, and each error is compensated in later columns, so that
    ``tr (ΔW H ΔWᵀ)`` stays small rather than ``‖ΔW‖``. A zero of the matrix is a weight whose only
    grid point is 0: what the columns before push onto it goes on to the kept ones behind. Scales
    are fitted when their block is reached, to the kept weights as they are by then.

    Rows where rounding to nearest happens to be better keep that result.

    Args:
        weight: (out, in) float32; zeros stay zero.
        gram: Gram matrix of this layer's input.
        grid: grid to round to; its blocks divide a row.
    """
    importance = gram.norms.square()[:, None] * (weight != 0).T  # norms are never 0
    pushed = compensated(weight, gram.inverse_factor, importance, grid)
    alone, scales = one_by_one(weight, importance, grid)
    better = (_losses(weight, pushed.weight, gram) <= _losses(weight, alone, gram))[:, None]
    return Rounded(
        torch.where(better, pushed.weight, alone),
        torch.where(better, pushed.scales, scales),
        torch.where(better, pushed.before, weight),
    )


def _losses(weight: Tensor, changed: Tensor, gram: Gram) -> Tensor:
    change = changed - weight
    return ((change @ gram.damped) * change).sum(dim=1)


def compensated(weight: Tensor, factor: Tensor, importance: Tensor, grid: Grid) -> Rounded:
    """Round column by column, compensating by `edgeprune.pruning.updates.column_loop`."""
    kept, before = importance > 0, torch.empty_like(importance)
    scales = torch.empty(weight.shape[1] // grid.block, len(weight), device=weight.device)

    def decide(start: int, block: Tensor, _diagonal: Tensor) -> Callable[[int], Tensor]:
        def value(j: int) -> Tensor:
            index, place = divmod(start + j, grid.block)
            if place == 0:
                rows = slice(start + j, start + j + grid.block)
                scales[index] = fit(grid, block[j : j + grid.block], importance[rows])
            torch.mul(block[j], kept[start + j], out=before[start + j])
            return codes(grid, block[j], scales[index]) * scales[index] * kept[start + j]

        return value

    width = max(_WIDTH // grid.block, 1) * grid.block
    found = column_loop(weight, factor, width, grid.block, decide)
    return Rounded(found, scales.T.contiguous(), before.T.contiguous())
