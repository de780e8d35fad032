"""AdamW that leaves zeros alone, and the learning rate's schedule."""

import math

import torch
from torch import nn

from edgeprune.support.distributed import add_up

_WARM_UP = 0.05
_LARGEST_GRADIENT = 1.0


class MaskedAdamW:
    """AdamW that keeps the zeros of matrices exactly zero at every step.

    Their gradients are zeroed before the optimizer sees them. Its moments stay zero there, there is
    no weight decay, and so nothing ever moves.

    Args:
        parameters: what is trained, by name; zeros of those with two dimensions or more stay.
        learning_rate: at its highest.
        masked: whether they hold zeros that stay; adapters start at zeros that are none.
        shared: whether other processes have the rest of the model: gradients are clipped by the
            norm of all.

    Attributes:
        masks: of the parameters that hold zeros; True where a weight may move.
        inner: torch's optimizer.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        masked: bool = True,
        shared: bool = False,
    ):
        self._parameters, self._learning_rate, self._shared = parameters, learning_rate, shared
        self.masks = {
            name: parameter.detach() != 0
            for name, parameter in parameters.items()
            if masked and parameter.dim() > 1 and bool((parameter == 0).any())
        }
        self.inner = torch.optim.AdamW(
            parameters.values(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def step(self, share: float) -> None:
        """Take a step with a share of the learning rate, and clear the gradients."""
        gradients = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        for name, mask in self.masks.items():
            if name in gradients:
                gradients[name].mul_(mask)
        norm = nn.utils.get_total_norm(list(gradients.values()))
        if self._shared:
            square = norm.square()
            add_up([square])
            norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(self._parameters.values(), _LARGEST_GRADIENT, norm)
        for group in self.inner.param_groups:
            group["lr"] = self._learning_rate * share
        self.inner.step()
        self.inner.zero_grad()


def schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise, then a cosine down to a tenth."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm))
