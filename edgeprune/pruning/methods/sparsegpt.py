"""SparseGPT (arXiv 2301.00774): column by column, each removal repaired by the columns to come."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.pruning.gram import Gram
from edgeprune.pruning.masks import Budget, spread
from edgeprune.pruning.updates.column_loop import sweep

_BLOCK = 128


def solve(weight: Tensor, gram: Gram, budget: Budget) -> Tensor:
    """Choose zeros block by block and push each error onto the weights not yet visited.

    Within a block of 128 columns the weights with the least ``w² / U_jj²`` go, compared over all
    rows; N:M groups are chosen when they are reached. ``U`` is the upper Cholesky factor of
    ``H⁻¹``; `edgeprune.pruning.updates.column_loop` pushes the errors on.

    Args:
        weight: (out, in) float32.
        gram: of this layer's input.
        budget: how many weights go, and where.

    Returns:
        (out, in), zeros where pruned.
    """
    return _solve(weight, gram.inverse_factor, budget)


def solve_in_order(weight: Tensor, gram: Gram, budget: Budget, order: Tensor) -> Tensor:
    """`solve` with columns visited in another order.

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
    group, width = budget.pattern.group, block_width(budget)
    taken = [0, *spread(budget.zeros, weight.shape[1]).cumsum(0).tolist()]

    def decide(start: int, block: Tensor, diagonal: Tensor) -> Callable[[int], Tensor]:
        kept = torch.ones_like(block)  # factors, which multiply faster than booleans
        if group is None:
            zeros = taken[start + len(block)] - taken[start]
            _remove(kept, block.square() / diagonal.square(), zeros)

        def value(j: int) -> Tensor:
            if group and j % group == 0:
                part = slice(j, j + group)
                kept[part] = budget.keep((block[part].square() / diagonal[part].square()).T).T
            return block[j] * kept[j]

        return value

    return sweep(weight, factor, width, group or 1, decide)


def block_width(budget: Budget) -> int:
    """Columns decided at once: 128, or the nearest number that no N:M group straddles."""
    group = budget.pattern.group or 1
    return max(_BLOCK // group, 1) * group


def _remove(kept: Tensor, scores: Tensor, zeros: int) -> None:
    """Set the factors of the lowest scores to 0."""
    kept.view(-1)[scores.flatten().topk(zeros, largest=False, sorted=False).indices] = 0
