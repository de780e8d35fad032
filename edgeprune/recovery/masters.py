"""Float32 master weights of a model that computes in a shorter type."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeprune.support.distributed import add_up_at, broadcast, world


class Masters:
    """Float32 copies of a model's weights: the optimizer updates them, the model uses rounded ones.

    Mixed-precision training (Micikevicius et al., 1710.03740), with bfloat16 there is no need to
    scale the loss. Every weight is cast once a step, however many sequences it sees. In a
    `torch.distributed` group each process owns the copies of some weights, and with them what is
    kept for each in float32: copy, gradient and moments, 16 bytes of 20 (ZeRO, 1910.02054).

    Args:
        working: the model's own parameters by name, in full precision; they may be cast later.

    Attributes:
        names: names of all trained weights.
        parameters: this process's copies, by the same names.
    """

    def __init__(self, working: dict[str, nn.Parameter]):
        self._working = working
        self._owners = _owners(working)
        self.names = list(working)
        self.parameters = {
            name: nn.Parameter(parameter.detach().float().clone())
            for name, parameter in working.items()
            if self._owners[name] == world()[0]
        }

    @torch.no_grad()
    def show(self, seen: Callable[[str, Tensor], Tensor]) -> None:
        """Copy ``seen(name, master)`` into the model: the masters, or what the file rounds to."""
        for name, parameter in self._working.items():
            if name in self.parameters:
                parameter.copy_(seen(name, self.parameters[name].data))
            self.from_owner(name, parameter.data)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients from the model to the masters, as sums over all processes.

        Weights without any get zeros.
        """
        for name, parameter in self._working.items():
            if parameter.grad is None:
                gradient = torch.zeros_like(parameter, dtype=torch.float32)
            else:
                gradient = parameter.grad.float()
            parameter.grad = None
            add_up_at(gradient, self._owners[name])
            if name in self.parameters:
                self.parameters[name].grad = gradient

    @torch.no_grad()
    def gathered(self, own: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Gather what processes have for their own weights on the first one's CPU; empty elsewhere.

        Args:
            own: gives a float32 tensor for each of `parameters`, in its shape.
        """
        found = {}
        for name, parameter in self._working.items():
            if name in self.parameters:
                tensor = own(name).detach()
            else:
                tensor = torch.empty_like(parameter, dtype=torch.float32)
            self.from_owner(name, tensor)
            if world()[0] == 0:
                found[name] = tensor.cpu()
        return found

    def from_owner(self, name: str, tensor: Tensor) -> None:
        """Overwrite a contiguous tensor with that of the process that owns the weight."""
        broadcast(tensor, self._owners[name])


def _owners(working: dict[str, nn.Parameter]) -> dict[str, int]:
    """Assign weights to ranks: the largest first, to the rank with the least."""
    loads = [0] * world()[1]
    owners = {}
    for name in sorted(working, key=lambda name: -working[name].numel()):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += working[name].numel()
    return owners
