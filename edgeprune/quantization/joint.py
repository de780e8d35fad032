"""Mask and codes of a masked grid, chosen together: zero is one of the quantiser's levels."""

from dataclasses import replace

from torch import Tensor

from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import Budget
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.least_squares import refit
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.quantization.scales import codes, one_by_one

_ROUNDS = 3  # of fitting scales to what is kept, and keeping what they serve best


def pruned_for(dense: Tensor, pruned: Tensor, gram: Gram, grid: Grid, budget: Budget) -> Tensor:
    """Choose between two masks, by what is lost when their weights are rounded.

    A method's own mask is made for weights that have all values; of few codes, another one may lose
    less (docs/measured/codes.md).

    Args:
        dense: (out, in) float32.
        pruned: (out, in), by a method.
        gram: Gram matrix of the layer's input.
        grid: a masked grid.
        budget: how many weights are pruned, and under which pattern.

    Returns:
        ``pruned``, or other weights under another mask, not rounded yet.
    """
    other = refit(dense, joint_mask(dense, gram, grid, budget), gram)
    losses = [_lost(dense, round_to_grid(one, gram, grid)[0], gram) for one in (pruned, other)]
    return other if losses[1] < losses[0] else pruned


def joint_mask(weight: Tensor, gram: Gram, grid: Grid, budget: Budget) -> Tensor:
    """Keep the weights that a code serves most: those with the largest ``h (w² - (w - d q)²)``.

    Scales ``d`` fit the weights that are kept, and those that are kept follow from the scales.

    Args:
        weight: (out, in) float32.
        gram: Gram matrix of the layer's input; ``h`` is its diagonal.
        grid: a masked grid.
        budget: how many weights are pruned, and under which pattern.

    Returns:
        (out, in), True where a weight is kept.
    """
    importance = gram.norms.square()
    each, fitted = importance[:, None].expand(weight.T.shape), replace(grid, masked=False)
    for _ in range(_ROUNDS):
        scale = one_by_one(weight, each, fitted)[1].repeat_interleave(grid.block, dim=1)
        left = weight - codes(grid, weight, scale) * scale
        keep = budget.keep((weight.square() - left.square()) * importance)
        each, fitted = importance[:, None] * keep.T, grid
    return keep


def _lost(dense: Tensor, rounded: Tensor, gram: Gram) -> float:
    change = rounded - dense
    return ((change @ gram.matrix) * change).sum().item()
