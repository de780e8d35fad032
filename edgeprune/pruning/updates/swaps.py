"""SparseSwaps (arXiv 2512.10922): trade a kept weight for a pruned one while the loss falls."""

import torch
from torch import Tensor

from edgeprune.planning.patterns import Pattern
from edgeprune.pruning.gram import Gram

# Best weights of each kind that are tried against each other; all pairs would cost in² per row.
_CANDIDATES = 16


def refine(weight: Tensor, mask: Tensor, gram: Gram, pattern: Pattern, rounds: int = 32) -> Tensor:
    """Find a better mask of the same size in every row (unstructured) or group (N:M).

    With ``e`` the pruned part of a row and ``g = H e``, pruning ``u`` and reviving ``p`` changes
    ``e H eᵀ`` by ``2 w_u g_u + w_u² H_uu - 2 w_p g_p + w_p² H_pp - 2 w_u w_p H_up``. Every round
    makes the best swap of each row among the most promising pairs; a row without one is done.

    Args:
        weight: (out, in) float32, dense.
        mask: (out, in), True is kept.
        gram: Gram matrix of this layer's input.
        pattern: the pattern that the mask must keep.
        rounds: largest number of swaps per row.

    Returns:
        (out, in) boolean; the loss of no row is larger than before.
    """
    hessian, diagonal = gram.damped, gram.damped.diagonal()
    mask = mask.clone()
    own = weight.square() * diagonal
    gradient = torch.where(mask, 0, weight) @ hessian
    rows = torch.arange(len(weight), device=weight.device)
    for _ in range(rounds):
        cost = torch.where(mask, 2 * weight * gradient + own, torch.inf)  # of pruning a kept one
        gain = torch.where(mask, -torch.inf, 2 * weight * gradient - own)  # of reviving
        out, back = pattern.swap_candidates(cost, gain, _CANDIDATES)
        change = (
            cost.gather(1, out)[..., None]
            - gain.gather(1, back)[:, None]
            - 2
            * (weight.gather(1, out)[..., None] * weight.gather(1, back)[:, None])
            * hessian[out[..., None], back[:, None]]
        )
        change = torch.where(pattern.may_swap(out, back), change, torch.inf)
        best, where = change.flatten(1).min(dim=1)
        better = best < -1e-6 * own.sum(dim=1).clamp_min(1e-30)
        if not better.any():
            break
        width = back.shape[1]
        row = rows[better]
        u = out[row, where[better] // width]
        p = back[row, where[better] % width]
        mask[row, u], mask[row, p] = False, True
        gradient[row] += weight[row, u, None] * hessian[u] - weight[row, p, None] * hessian[p]
    return mask
