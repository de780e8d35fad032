"""Selective updates: a weight moves as far as it matters more to the task than to the model.

SPIDER (arXiv 2411.10928). Training only what matters to the task and little to everything else
keeps general skill.
"""

import torch
from torch import Tensor, nn


class Selection:
    """Pulls weights back to their initial values, as far as those values matter.

    Zeros are ignored: ranks are among the kept weights of a tensor.

    Args:
        parameters: trained parameters by name, before the first step.

    Attributes:
        gradients: sums of absolute gradients over all steps, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self._parameters = parameters
        self._start = {name: p.detach().clone() for name, p in parameters.items()}
        self.gradients = {name: torch.zeros_like(p) for name, p in self._start.items()}

    def gather(self) -> None:
        """Add the gradients of this step."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.gradients[name] += parameter.grad.abs()

    @torch.no_grad()
    def pull_back(self) -> None:
        """Set ``W ← c·W + (1 - c)·W₀`` after a step, with c from `freedom`."""
        for name, parameter in self._parameters.items():
            start = self._start[name]
            parameter.copy_(start.lerp(parameter, freedom(start, self.gradients[name])))


def freedom(start: Tensor, gradients: Tensor) -> Tensor:
    """Compute how freely each weight moves, from 0 to 1 (arXiv 2411.10928).

    Args:
        start: the weights before training; zeros do not move.
        gradients: sums of absolute gradients, the same shape.

    Returns:
        ``r_g / (r_g + r_w)`` where ``r_g > r_w``, else 0, divided by the mean of what is not 0, at
        most 1; ``r(z) = sigmoid((z - mean) / sd)``.
    """
    kept = start != 0
    if not kept.any():
        return torch.zeros_like(start)
    before, now = _rank(start.abs(), kept), _rank(gradients, kept)
    free = torch.where(kept & (now > before), now / (now + before), 0.0)
    return (free / free[free > 0].mean()).clamp_max(1) if free.any() else free


def _rank(values: Tensor, kept: Tensor) -> Tensor:
    among = values[kept]
    return ((values - among.mean()) / among.std(correction=0).clamp_min(1e-12)).sigmoid()
