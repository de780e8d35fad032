"""ADMM with one factorisation (arXiv 2401.02938): a faster variant of ALPS."""

from dataclasses import replace

import torch
from torch import Tensor

from edgeprune.planning.patterns import Budget
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.least_squares import refit

# Measured on SmolLM2's layers: 7 % more error than `alps` in two fifths of its time; twice the
# iterations would win 2 of those. A smaller penalty does not settle in so few of them, least of all
# where inputs are hardly correlated.
_ITERATIONS = 10
_GROWING = 7
_PENALTY = 1.0
_POLISHING_STEPS = 4


def solve(weight: Tensor, gram: Gram, budget: Budget) -> Tensor:
    """Run ADMM as in `edgeprune.pruning.methods.alps`, with one penalty and one inverse.

    The number of zeros grows over the first iterations as ``1 - (1 - k/7)³`` of the budget; N:M
    patterns are full from the start. Weights on the final support are solved for by conjugate
    gradients.

    Args:
        weight: (out, in) float32.
        gram: Gram matrix of this layer's input.
        budget: how many weights are pruned, and under which pattern.

    Returns:
        (out, in), zeros where pruned.
    """
    eye = torch.eye(len(gram.norms), device=weight.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram.normalised + _PENALTY * eye))
    scaled = weight * gram.norms
    target = scaled @ gram.normalised
    state = scaled
    for iteration in range(1, _ITERATIONS + 1):
        grown = 1 - (1 - min(iteration / _GROWING, 1)) ** 3
        mask = replace(budget, zeros=round(budget.zeros * grown)).keep(state.abs())
        right = torch.where(mask, state, -state).mul_(_PENALTY).add_(target)
        state = torch.addmm(state.masked_fill(mask, 0), right, inverse)
    mask = budget.keep(state.abs())
    return refit(weight, mask, gram, _POLISHING_STEPS, start=state / gram.norms)
