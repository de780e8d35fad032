"""Data parallelism: each process of a `torch.distributed` group gets its share of the sequences.

Statistics are summed over processes at block borders, so every process prunes alike and only the
first one writes; each owns a part of what is trained (`edgeprune.recovery.masters`). Outside such a
group there is one process with everything.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def world() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if "torch" in sys.modules:  # there is no group without it, and names cost no torch
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Tell whether this process writes results; outside of a group it does."""
    return world()[0] == 0


def share(tensor: "Tensor") -> "Tensor":
    """Return this process's part of the sequences, (samples, ...)."""
    rank, size = world()
    return tensor.tensor_split(size)[rank]


def add_up(tensors: "list[Tensor]") -> None:
    """Sum tensors over all processes, in place."""
    import torch.distributed as dist

    if world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def add_up_at(tensor: "Tensor", rank: int) -> None:
    """Sum a tensor over all processes, in place; only the process of this ``rank`` gets the sum."""
    import torch.distributed as dist

    if world()[1] > 1:
        dist.reduce(tensor, rank)


def broadcast(tensor: "Tensor", rank: int) -> None:
    """Overwrite a contiguous tensor with that of the process of this ``rank``."""
    import torch
    import torch.distributed as dist

    if world()[1] > 1:
        dist.broadcast(tensor.view(-1).view(torch.uint8), rank)  # gloo doesn't know all types


def agree(number: int) -> int:
    """Return the number if every process has the same, else 0."""
    import torch.distributed as dist

    numbers = [number] * world()[1]
    if len(numbers) > 1:
        dist.all_gather_object(numbers, number)
    return number if len(set(numbers)) == 1 else 0


def least(number: int) -> int:
    """Return the smallest number of any process."""
    import torch.distributed as dist

    numbers = [number] * world()[1]
    if len(numbers) > 1:
        dist.all_gather_object(numbers, number)
    return min(numbers)


def wait() -> None:
    """Wait until every process has reached this point."""
    import torch.distributed as dist

    if world()[1] > 1:
        dist.barrier()
