"""ROSE (arXiv 2603.05878): SparseGPT that visits the columns with the heaviest losses first."""

import torch
from torch import Tensor

from edgeprune.planning.patterns import Budget
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.methods import sparsegpt

# A layer whose blocks' losses spread by more than this share is worth reordering.
_COLUMNAR = 0.5


def solve(weight: Tensor, gram: Gram, budget: Budget) -> Tensor:
    """Run SparseGPT, with heavy columns first if few columns hold most of the loss.

    Args:
        weight: (out, in) float32.
        gram: Gram matrix of this layer's input.
        budget: how many weights are pruned, and under which pattern.

    Returns:
        (out, in), zeros where pruned.
    """
    order = column_order(weight, gram, budget)
    if order is None:
        return sparsegpt.solve(weight, gram, budget)
    return sparsegpt.solve_in_order(weight, gram, budget, order)


def column_order(weight: Tensor, gram: Gram, budget: Budget) -> Tensor | None:
    """Order columns by the Wanda loss of what a first pruning would remove from them.

    Columns are sorted within each of SparseGPT's blocks and the blocks among themselves, heaviest
    first; N:M groups move as one.

    Returns:
        (in,) permutation, or None if the blocks' losses are alike: ``(max - min) / max ≤ ½``.
    """
    scores = weight.square() * gram.matrix.diagonal()
    lost = torch.where(budget.keep(scores), 0, scores).sum(dim=0)
    blocks = torch.arange(len(lost), device=lost.device).split(sparsegpt.block_width(budget))
    losses = torch.stack([lost[block].sum() for block in blocks])
    if losses.max() - losses.min() <= _COLUMNAR * losses.max():
        return None
    unit = budget.pattern.unit
    ordered = []
    for index in losses.argsort(descending=True).tolist():
        units = blocks[index].view(-1, unit)
        heaviest = lost[units].sum(dim=1).argsort(descending=True)
        ordered.append(units[heaviest].flatten())
    return torch.cat(ordered)
