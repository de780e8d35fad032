"""GPTQ (arXiv 2210.17323) under a mask: each rounding error moves on to weights still to come."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.methods.gram import Gram
from edgeprune.methods.sweep import sweep
from edgeprune.quantization.fit import codes, fit
from edgeprune.quantization.grid import Grid

_WIDTH = 128


def round_to_grid(weight: Tensor, gram: Gram, grid: Grid) -> tuple[Tensor, Tensor]:
    """Round a pruned matrix so that its output changes least.

    Columns are rounded in order, and each error is pushed onto the columns to come, so that
    ``tr (ΔW H ΔWᵀ)`` stays small rather than ``‖ΔW‖``. A zero of the matrix is a weight whose only
    grid point is 0: what the columns before push onto it goes on to the kept ones behind. Scales
    are fitted when their block is reached, to the kept weights as they are by then.

    Rounding each weight by itself is kept for rows where it happens to be better.

    Args:
        weight: (out, in) float32; zeros stay zero.
        gram: of this layer's input.
        grid: what to round to; its blocks divide a row.

    Returns:
        (out, in) on the grid, and the scales, (out, in / block).
    """
    kept = (weight != 0).T
    importance = gram.norms.square()[:, None] * kept
    pushed = _round(weight, gram.inverse_factor, importance, kept, grid)
    alone = _round(weight, None, importance, kept, grid)
    worse = (_losses(weight, pushed[0], gram) > _losses(weight, alone[0], gram))[:, None]
    return (
        torch.where(worse, alone[0], pushed[0]),
        torch.where(worse, alone[1], pushed[1]),
    )


def _losses(weight: Tensor, rounded: Tensor, gram: Gram) -> Tensor:
    change = rounded - weight
    return ((change @ gram.damped) * change).sum(dim=1)


def _round(
    weight: Tensor, factor: Tensor | None, importance: Tensor, kept: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    scales = torch.empty(weight.shape[1] // grid.block, len(weight), device=weight.device)
    if factor is None:
        columns = weight.T.contiguous()
        for index, block in enumerate(columns.split(grid.block)):
            rows = slice(index * grid.block, (index + 1) * grid.block)
            scales[index] = fit(grid, block, importance[rows])
            block.copy_(codes(grid, block, scales[index]) * scales[index])
        return columns.T.contiguous(), scales.T.contiguous()

    def decide(start: int, block: Tensor, _diagonal: Tensor) -> Callable[[int], Tensor]:
        def value(j: int) -> Tensor:
            column = start + j
            index = column // grid.block
            if column % grid.block == 0:
                rows = slice(column, column + grid.block)
                scales[index] = fit(grid, block[j : j + grid.block], importance[rows])
            return codes(grid, block[j], scales[index]) * scales[index] * kept[column]

        return value

    width = max(_WIDTH // grid.block, 1) * grid.block
    return sweep(weight, factor, width, decide), scales.T.contiguous()
