"""Prune one weight matrix, given both streams' statistics of its input."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeprune.planning.patterns import Budget
from edgeprune.pruning.fusion import FusedStatistics, FusionRule
from edgeprune.pruning.methods import METHODS, Method, obs
from edgeprune.pruning.updates.least_squares import refit
from edgeprune.pruning.updates.swaps import refine


@dataclass(frozen=True)
class Pruning:
    """How to prune.

    Attributes:
        method: method name in `edgeprune.pruning.methods.METHODS`.
        fusion: how the streams are joined.
        swaps: whether the mask is refined by SparseSwaps before any weight update.
        refit: whether the kept weights are refitted by least squares under the final mask.
        permute: whether an N:M pattern may reorder the channels inside a feed-forward network.
        head: whether the output head is pruned too.
        sink_positions: number of first positions of every sequence left out of statistics. They
            hold the attention sink, whose activations are far above all others; yet leaving them
            out lets weight updates damage the sink, which costs more than it gains
            (docs/measured/peers.md).
        answer_weight: weight, in the statistics, of positions that predict a token of an answer.
        high_perplexity_weight: factor at positions whose next token has high perplexity in the
            dense model.
    """

    method: str = "wanda"
    fusion: FusionRule = field(default_factory=FusionRule)
    swaps: bool = False
    refit: bool = False
    permute: bool = False
    head: bool = False
    sink_positions: int = 0
    answer_weight: float = 1.0
    high_perplexity_weight: float = 1.0

    @property
    def how(self) -> Method:
        """Return the method's description."""
        return METHODS[self.method]

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of the streams that are used."""
        if self.how.sees == "nothing":
            return ("general",)
        both = ("general", "task")
        return (self.fusion.mode,) if self.fusion.mode in both else both

    @property
    def sees_moments_alone(self) -> bool:
        """Tell whether only second moments of the inputs are needed."""
        return self.how.sees == "moments" and not (
            self.needs_gram or self.how.gradient or self.head
        )

    @property
    def needs_gram(self) -> bool:
        """Tell whether whole Gram matrices must be gathered."""
        return self.how.sees == "gram" or self.swaps or self.refit


def scores(weight: Tensor, inputs: FusedStatistics, method: Method) -> Tensor:
    """Compute fused scores, (out, in); for methods that solve, the saliency of their first step."""
    score = obs.score if method.solves else method.score
    return inputs.score(lambda statistics: score(weight, statistics))


def prune_matrix(
    weight: Tensor, inputs: FusedStatistics, pruning: Pruning, budget: Budget
) -> Tensor:
    """Prune one matrix.

    Args:
        weight: (out, in) float32.
        inputs: statistics of the layer's input, with gradients if the method needs them.
        pruning: how to prune.
        budget: how many weights are pruned, and under which pattern.

    Returns:
        (out, in) float32, zeros where pruned.
    """
    if budget.zeros == 0:
        return weight
    method = pruning.how
    masked = inputs.rule.mode == "fused" and inputs.rule.hessian == "masked"
    if method.solves and not masked:
        pruned = method.solve(weight, inputs.hessian, budget)
        if not (pruning.swaps or pruning.refit):
            return pruned
        mask = pruned != 0
    else:
        mask = budget.keep(scores(weight, inputs, method))
    if pruning.swaps:
        mask = refine(weight, mask, inputs.joint.gram, budget.pattern)
    if pruning.refit or method.solves:
        return refit(weight, mask, inputs.joint.gram)
    return torch.where(mask, weight, 0)
