"""SparseGPT (arXiv 2301.00774): column by column, each removal repaired by the columns to come."""

import torch
from torch import Tensor

from edgeprune.methods.gram import Gram
from edgeprune.patterns import Budget, spread

_BLOCK = 128


def solve(weight: Tensor, gram: Gram, budget: Budget) -> Tensor:
    """Choose zeros block by block and push each error onto the weights not yet visited.

    Within a block of 128 columns the weights with the least ``w² / U_jj²`` go, compared over all
    rows; N:M groups are chosen when they are reached. ``U`` is the upper Cholesky factor of
    ``H⁻¹``; removing column ``j`` moves the later ones by ``-(w_j / U_jj) U_j,j:``.

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
    # Transposed, so that the column at work and those behind it are contiguous: (in, out).
    columns = weight.T.clone(memory_format=torch.contiguous_format)
    group, width = budget.pattern.group, block_width(budget)
    taken = [0, *spread(budget.zeros, len(columns)).cumsum(0).tolist()]
    for start in range(0, len(columns), width):
        end = min(start + width, len(columns))
        block, local = columns[start:end], factor[start:end, start:end]
        scale = local.diagonal()[:, None]
        mask = torch.ones_like(block, dtype=torch.bool)
        if group is None:
            mask = _keep_all_but(block.square() / scale.square(), taken[end] - taken[start])
        errors = torch.zeros_like(block)
        for j in range(len(block)):
            if group and j % group == 0:
                part = slice(j, j + group)
                mask[part] = budget.keep((block[part].square() / scale[part].square()).T).T
            errors[j] = block[j].masked_fill(mask[j], 0) / scale[j]
            block[j:].addr_(local[j, j:], errors[j], alpha=-1)
        columns[end:] -= factor[start:end, end:].T @ errors
        block *= mask
    return columns.T.contiguous()


def block_width(budget: Budget) -> int:
    """Columns decided at once: 128, or the nearest number that no N:M group straddles."""
    group = budget.pattern.group or 1
    return max(_BLOCK // group, 1) * group


def _keep_all_but(scores: Tensor, zeros: int) -> Tensor:
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(zeros, largest=False, sorted=False).indices] = False
    return mask.view_as(scores)
