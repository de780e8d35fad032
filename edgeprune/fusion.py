"""Shared/exclusive fusion of the scores of two calibration streams.

Follows the published description of task-aware pruning (arXiv 2510.22489): separate scores on
general and task data, channels split into shared and exclusive ones by activation norms, scores
fused per group. The paper's threshold and operators are not public; ours are those of DESIGN.md.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from edgeprune.methods.statistics import InputStatistics, mix

if TYPE_CHECKING:
    from edgeprune.methods import Score

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class FusionRule:
    """How the two streams are joined.

    Attributes:
        mode: ``general``, ``task``, ``mix`` or ``fused``.
        tau: border between shared and exclusive channels.
        tau_mode: ``quantile`` over the layer's channels, or a ``fixed`` distance in [0, 1].
        task_share: λ, weight of the task stream where both count.
        task_weight: w_T, weight of the task score in exclusive channels.
    """

    mode: str = "fused"
    tau: float = 0.8
    tau_mode: Literal["quantile", "fixed"] = "quantile"
    task_share: float = 0.5
    task_weight: float = 1.0


@dataclass(frozen=True)
class ChannelGroups:
    """Which stream each input channel matters to. All (in,) boolean, a partition.

    Attributes:
        shared: both streams use the channel alike.
        general: the general stream uses it more.
        task: the task stream uses it more.
    """

    shared: Tensor
    general: Tensor
    task: Tensor


def channel_groups(
    general: InputStatistics, task: InputStatistics, rule: FusionRule
) -> ChannelGroups:
    """Split channels by the distance of their RMS norms in the two streams.

    ``d = |â_G - â_T| / max(â_G, â_T)`` with ``â = a / rms(a)`` per layer, so that a difference in
    scale alone marks nothing; a channel is shared where ``d ≤ τ``.
    """
    a_general, a_task = _unit_rms(general.rms), _unit_rms(task.rms)
    distance = (a_general - a_task).abs() / torch.maximum(a_general, a_task).clamp_min(_TINY)
    border = torch.quantile(distance, rule.tau) if rule.tau_mode == "quantile" else rule.tau
    shared = distance <= border
    return ChannelGroups(shared, ~shared & (a_general > a_task), ~shared & (a_general <= a_task))


def fused_score(
    score: "Score",
    weight: Tensor,
    general: InputStatistics,
    task: InputStatistics,
    rule: FusionRule,
) -> Tensor:
    """Score a layer's weights for both streams under a fusion rule.

    ========  =======================================================================
    general   ``S(G)``
    task      ``S(T)``
    mix       ``S((1-λ) G + λ T)``
    fused     shared channels ``(1-λ) S_G + λ S_T``, others ``max(S_G, w_T S_T)``,
              each ``S_D`` divided by its layer mean
    ========  =======================================================================

    Args:
        score: a method's score function.
        weight: (out, in).
        general: input statistics on the general stream.
        task: input statistics on the task stream.
        rule: how to join them.

    Returns:
        (out, in), larger is kept.
    """
    match rule.mode:
        case "general":
            return score(weight, general)
        case "task":
            return score(weight, task)
        case "mix":
            return score(weight, mix(general, task, rule.task_share))
        case "fused":
            s_general = _unit_mean(score(weight, general))
            s_task = _unit_mean(score(weight, task))
            shared = channel_groups(general, task, rule).shared
            return torch.where(
                shared,
                (1 - rule.task_share) * s_general + rule.task_share * s_task,
                torch.maximum(s_general, rule.task_weight * s_task),
            )
        case other:
            raise ValueError(f"unknown fusion mode {other!r}")


def _unit_rms(norms: Tensor) -> Tensor:
    return norms / norms.square().mean().sqrt().clamp_min(_TINY)


def _unit_mean(scores: Tensor) -> Tensor:
    return scores / scores.mean().clamp_min(_TINY)
