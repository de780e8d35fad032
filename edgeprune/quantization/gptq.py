"""GPTQ (arXiv 2210.17323) under a mask: rounding errors are compensated in later weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.planning.grid import Grid
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.column_loop import column_loop
from edgeprune.quantization.scales import codes, fit, one_by_one

_WIDTH = 128


def round_to_grid(weight: Tensor, gram: Gram, grid: Grid) -> tuple[Tensor, Tensor]:
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

    Returns:
        (out, in) on the grid, and the scales, (out, in / block).
    """
    importance = gram.norms.square()[:, None] * (weight != 0).T  # norms are never 0
    pushed, pushed_scales = compensated(weight, gram.inverse_factor, importance, grid)
    alone, scales = one_by_one(weight, importance, grid)
    better = (_losses(weight, pushed, gram) <= _losses(weight, alone, gram))[:, None]
    return torch.where(better, pushed, alone), torch.where(better, pushed_scales, scales)


def _losses(weight: Tensor, rounded: Tensor, gram: Gram) -> Tensor:
    change = rounded - weight
    return ((change @ gram.damped) * change).sum(dim=1)


def compensated(
    weight: Tensor, factor: Tensor, importance: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Round column by column, compensating by `edgeprune.pruning.updates.column_loop`."""
    kept = importance > 0
    scales = torch.empty(weight.shape[1] // grid.block, len(weight), device=weight.device)

    def decide(start: int, block: Tensor, _diagonal: Tensor) -> Callable[[int], Tensor]:
        def value(j: int) -> Tensor:
            index, place = divmod(start + j, grid.block)
            if place == 0:
                rows = slice(start + j, start + j + grid.block)
                scales[index] = fit(grid, block[j : j + grid.block], importance[rows])
            return codes(grid, block[j], scales[index]) * scales[index] * kept[start + j]

        return value

    width = max(_WIDTH // grid.block, 1) * grid.block
    return column_loop(weight, factor, width, grid.block, decide), scales.T.contiguous()
