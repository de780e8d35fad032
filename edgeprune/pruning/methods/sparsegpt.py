"""SparseGPT (arXiv 2301.00774): prunes column by column, and updates later columns each time."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.planning.patterns import Budget, spread
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.column_loop import column_loop

_BLOCK = 128


def solve(weight: Tensor, gram: Gram, budget: Budget) -> Tensor:
    """Choose zeros block by block, and compensate each error in the weights not yet visited.

    Within a block of 128 columns the weights with the least ``w² / U_jj²`` go, compared over all
    rows; N:M groups are chosen when they are reached. ``U`` is the upper Cholesky factor of
    ``H⁻¹``; `edgeprune.pruning.updates.column_loop` compensates the errors.

    Args:
        weight: (out, in) float32.
        gram: of this layer's input.
        budget: how many weights go, and where.

    Returns:
        (out, in), zeros where pruned.
    """
    return _solve(weight, gram.inverse_factor, budget)


def solve_in_order(weight: Tensor, gram: Gram, budget: Budget, order: Tensor) -> Tensor:
    """Run `solve` with the columns visited in another order.

    Args:
        weight: (out, in) float32.
        gram: of this layer's input.
        budget: how many weights go, and where.
        order: (in,) permutation of the columns; must keep N:M groups together.
    """
    reordered = Gram(gram.matrix[order][:, order])
    result = torch.empty_like(weight)
    result[:, order] = _solve(weight[:, order], reordered.inverse_factor, budget)
    return result


def _solve(weight: Tensor, factor: Tensor, budget: Budget) -> Tensor:
    pattern, width = budget.pattern, block_width(budget)
    together = pattern.columns_at_once(width)
    taken = [0, *spread(budget.zeros, weight.shape[1]).cumsum(0).tolist()]

    def decide(start: int, block: Tensor, diagonal: Tensor) -> Callable[[int], Tensor]:
        kept = torch.ones_like(block)  # factors, which multiply faster than booleans

        def value(j: int) -> Tensor:
            if j % together == 0:
                end = min(j + together, len(block))
                saliency = block[j:end].square() / diagonal[j:end].square()
                zeros = taken[start + end] - taken[start + j]
                kept[j:end] = pattern.keep_columns(saliency, zeros).to(kept.dtype)
            return block[j] * kept[j]

        return value

    return column_loop(weight, factor, width, pattern.unit, decide)


def block_width(budget: Budget) -> int:
    """Return the columns per block: 128, or the nearest number that splits no group."""
    unit = budget.pattern.unit
    return max(_BLOCK // unit, 1) * unit
