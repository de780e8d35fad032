"""AdamW that keeps zeros, and the learning-rate schedule."""

import math
from collections.abc import Collection

import torch
from torch import nn

from edgeprune.support.distributed import add_up

_WARM_UP = 0.05
_LARGEST_GRADIENT = 1.0


class MaskedAdamW:
    """AdamW that keeps zeros of matrices exactly zero at every step.

    Gradients of zeros are zeroed before the optimizer's step. Its moments stay zero there, and
    there is no weight decay, so zeros never change.

    Args:
        parameters: trained parameters by name.
        learning_rate: the highest learning rate.
        masked: names of those whose zeros must stay, if they have two or more dimensions; None: of
            all. Adapters start at zeros that may change.
        shared: whether other processes hold the rest of the model: gradients are clipped by the
            norm over all.

    Attributes:
        masks: masks of the parameters that hold zeros; True where a weight may change.
        inner: torch's optimizer.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        masked: Collection[str] | None = None,
        shared: bool = False,
    ):
        self._parameters, self._learning_rate, self._shared = parameters, learning_rate, shared
        self.masks = {
            name: parameter.detach() != 0
            for name, parameter in parameters.items()
            if (masked is None or name in masked)
            and parameter.dim() > 1
            and bool((parameter == 0).any())
        }
        self.inner = torch.optim.AdamW(
            parameters.values(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def step(self, share: float) -> None:
        """Take a step with a fraction of the learning rate, and clear the gradients."""
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
    """Return the fraction of the highest learning rate: linear warm-up, then cosine to a tenth."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm))
