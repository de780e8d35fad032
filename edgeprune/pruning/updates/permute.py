"""Channel permutation for N:M patterns (RIA, ICLR 2024): groups that keep more of the score.

Which channels share a group of M decides what an N:M mask can keep. Inside a feed-forward network
the order of the hidden channels is free: reordering the columns of the last layer together with the
rows of those before it changes nothing but the place of every channel.
"""

import torch
from torch import Tensor

from edgeprune.planning.patterns import Pattern

# Rounds of reassignment; later ones change little.
_ROUNDS = 3
# Rows of the score that the assignment looks at; more cost time in proportion.
_ROWS = 512


def channel_order(scores: Tensor, pattern: Pattern) -> Tensor:
    """Find an order of input channels under which an N:M mask keeps more of the score.

    Channels start in snake order of their total score, so that every group gets strong and weak
    ones. Then, place by place, one channel of every group is taken out and all of them are assigned
    anew (linear sum assignment): channel ``c`` adds ``Σ_i max(0, s_ic - n_ig)`` to group ``g``,
    ``n`` being the N-th best of what the group's row still holds.

    Args:
        scores: (out, in) importance of each weight.
        pattern: the N:M pattern.

    Returns:
        (in,) permutation: old channel for each new position; the identity if nothing better is
        found.
    """
    from scipy.optimize import linear_sum_assignment

    kept, group = pattern.kept, pattern.unit
    columns = scores.shape[1]
    rows = scores[:: max(1, len(scores) // _ROWS)]
    places = _snake(rows.sum(dim=0), group)  # (groups, M) channels
    for place in [p for _ in range(_ROUNDS) for p in range(group)]:
        rest = torch.cat([places[:, :place], places[:, place + 1 :]], dim=1)
        weakest_kept = rows[:, rest].topk(kept, dim=2).values[:, :, -1]  # (rows, groups)
        free = places[:, place]
        gain = torch.stack([(rows[:, c, None] - weakest_kept).clamp_min(0).sum(0) for c in free])
        chosen, target = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
        places[torch.as_tensor(target), place] = free[torch.as_tensor(chosen)]
    order = places.flatten()
    straight = torch.arange(columns, device=scores.device)
    return order if _kept(rows[:, order], pattern) > _kept(rows, pattern) else straight


def _snake(totals: Tensor, group: int) -> Tensor:
    """Deal channels by descending total to groups back and forth: (groups, M)."""
    dealt = totals.argsort(descending=True).view(group, -1).clone()
    dealt[1::2] = dealt[1::2].flip(1)
    return dealt.T.contiguous()


def _kept(scores: Tensor, pattern: Pattern) -> Tensor:
    return scores.reshape(-1, pattern.unit).topk(pattern.kept, dim=1).values.sum()
