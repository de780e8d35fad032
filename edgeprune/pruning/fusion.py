"""Shared/exclusive fusion of two calibration streams.

Follows the published description of task-aware pruning (arXiv 2510.22489): separate scores on
general and task data, channels split into shared and exclusive ones by activation norms, scores
fused per group. The paper's threshold and operators are not public; ours stand in
docs/design.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from edgeprune.pruning.gram import Gram
from edgeprune.pruning.statistics import InputStatistics, mix

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
        hessian: what ``fused`` means for methods that solve for weights: ``scaled``, they run on
            the fused Gram matrix; ``masked``, the mask comes from fused scores and the weights are
            updated on the mix.
    """

    mode: str = "fused"
    tau: float = 0.8
    tau_mode: Literal["quantile", "fixed"] = "quantile"
    task_share: float = 0.5
    task_weight: float = 1.0
    hessian: Literal["scaled", "masked"] = "scaled"

    @property
    def shares(self) -> dict[str, float]:
        """Return the weight of each stream that is looked at."""
        both = {"general": 1 - self.task_share, "task": self.task_share}
        return {self.mode: 1.0} if self.mode in both else both


@dataclass(frozen=True)
class ChannelGroups:
    """Which stream each input channel matters to: (in,) booleans that partition the channels.

    Attributes:
        shared: both streams use the channel alike.
        general: the general stream uses it more.
        task: the task stream uses it more.
    """

    shared: Tensor
    general: Tensor
    task: Tensor


@dataclass(frozen=True)
class FusedStatistics:
    """One layer input in both streams; fused statistics are shared by every layer that reads it.

    Attributes:
        seen: statistics on the ``general`` and the ``task`` stream, or on the only one that
            the rule's mode uses.
        rule: how to join the streams.
    """

    seen: dict[str, InputStatistics]
    rule: FusionRule

    @property
    def general(self) -> InputStatistics:
        """Return the statistics on the general stream."""
        return self.seen["general"]

    @property
    def task(self) -> InputStatistics:
        """Return the statistics on the task stream."""
        return self.seen["task"]

    def with_gradients(self, gradients: dict[str, Tensor]) -> "FusedStatistics":
        """Return the same input with one matrix's mean squared gradients, given by stream."""
        return FusedStatistics(
            {name: replace(s, gradient=gradients[name]) for name, s in self.seen.items()}, self.rule
        )

    def reordered(self, order: Tensor) -> "FusedStatistics":
        """Return the input with its channels reordered, (in,) old channel for each new position."""
        return FusedStatistics(
            {name: s.reordered(order) for name, s in self.seen.items()}, self.rule
        )

    @cached_property
    def joint(self) -> InputStatistics:
        """Return what weight updates minimise: one stream, or ``(1-λ) G + λ T`` for both.

        That is the exact minimiser of a weighted sum of both streams' losses.
        """
        if len(self.seen) == 1:
            return next(iter(self.seen.values()))
        if self.rule.mode in self.seen:
            return self.seen[self.rule.mode]
        return mix(self.general, self.task, self.rule.task_share)

    @cached_property
    def groups(self) -> ChannelGroups:
        """Split channels by the distance of their RMS norms in the two streams.

        ``d = |â_G - â_T| / max(â_G, â_T)`` with ``â = a / rms(a)`` per layer, so that a difference
        in scale alone marks nothing; a channel is shared where ``d ≤ τ``.
        """
        general, task = _unit_rms(self.general.rms), _unit_rms(self.task.rms)
        distance = (general - task).abs() / torch.maximum(general, task).clamp_min(_TINY)
        tau = self.rule.tau
        border = torch.quantile(distance, tau) if self.rule.tau_mode == "quantile" else tau
        shared = distance <= border
        return ChannelGroups(shared, ~shared & (general > task), ~shared & (general <= task))

    def exclusive_shares(self) -> tuple[float, float] | None:
        """Return the shares of channels that each stream uses more, if there are two streams."""
        if len(self.seen) == 1:
            return None
        groups = self.groups
        return groups.general.float().mean().item(), groups.task.float().mean().item()

    def score(self, score: Callable[[InputStatistics], Tensor]) -> Tensor:
        """Score a layer's weights for both streams.

        ========  =======================================================================
        general   ``S(G)``
        task      ``S(T)``
        mix       ``S((1-λ) G + λ T)``
        fused     shared channels ``(1-λ) S_G + λ S_T``, others ``max(S_G, w_T S_T)``,
                  each ``S_D`` divided by its layer mean
        ========  =======================================================================

        Args:
            score: a method's score of the layer's weights, (out, in), given statistics.

        Returns:
            (out, in), larger is kept.
        """
        if self.rule.mode != "fused" or len(self.seen) == 1:
            return score(self.joint)
        return self._fuse(_unit_mean(score(self.general)), _unit_mean(score(self.task)))

    @cached_property
    def hessian(self) -> Gram:
        """Return the Gram matrix for methods that solve for weights.

        For ``fused`` it is ``C H_mix C`` with ``C`` such that its diagonal is the fused score of
        the channels themselves: positive semidefinite, and mask and weights are found together.
        """
        if self.rule.mode != "fused" or len(self.seen) == 1:
            return self.joint.gram
        fused = self._fuse(
            _unit_mean(self.general.second_moment), _unit_mean(self.task.second_moment)
        )
        return self.joint.gram.scaled((fused / self.joint.second_moment.clamp_min(_TINY)).sqrt())

    def damping(self) -> float:
        """Return the highest damping that any Gram matrix of this input needed for its inverse."""
        grams = [self.joint.gram, self.hessian, *(s.gram for s in self.seen.values())]
        return max(gram.damping for gram in grams)

    def _fuse(self, general: Tensor, task: Tensor) -> Tensor:
        rule = self.rule
        return torch.where(
            self.groups.shared,
            (1 - rule.task_share) * general + rule.task_share * task,
            torch.maximum(general, rule.task_weight * task),
        )


def _unit_rms(norms: Tensor) -> Tensor:
    return norms / norms.square().mean().sqrt().clamp_min(_TINY)


def _unit_mean(scores: Tensor) -> Tensor:
    return scores / scores.mean().clamp_min(_TINY)
