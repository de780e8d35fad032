"""What is trained, in float32, of a model that computes in a shorter type."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Masters:
    """float32 copies of a model's weights: the optimizer moves them, the model sees them rounded.

    Mixed-precision training (Micikevicius et al., 1710.03740), with bfloat16 there is no need to
    scale the loss. Every weight is cast once a step, however many sequences it sees.

    Args:
        working: the model's own parameters, by name, in float32 at first. They may be cast later.

    Attributes:
        parameters: the copies, by the same names.
    """

    def __init__(self, working: dict[str, nn.Parameter]):
        self._working = working
        self.parameters = {
            name: nn.Parameter(parameter.detach().float().clone())
            for name, parameter in working.items()
        }

    @torch.no_grad()
    def show(self, seen: Callable[[str, Tensor], Tensor]) -> None:
        """Put ``seen(name, master)`` into the model: the masters, or what a file rounds them to."""
        for name, parameter in self._working.items():
            parameter.copy_(seen(name, self.parameters[name].data))

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients from the model to the masters; weights without any get zeros."""
        for name, parameter in self._working.items():
            master = self.parameters[name]
            if parameter.grad is None:
                master.grad = torch.zeros_like(master)
            else:
                master.grad = parameter.grad.to(master.device, torch.float32)
            parameter.grad = None
