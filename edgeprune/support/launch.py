"""Builds over several processes, as torchrun or ``accelerate launch`` start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from edgeprune.support.errors import UsageError

_LONGEST_STAGE = timedelta(days=1)  # that one process does while the others wait


@contextmanager
def group(device: str) -> Iterator[int]:
    """Join the process group of a launcher, if there is one.

    Args:
        device: ``cpu`` avoids GPUs; otherwise each process takes a GPU of its own.

    Yields:
        This process's rank; 0 without a launcher.

    Raises:
        UsageError: all processes would use one GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} names one GPU, but several processes were launched.",
            "Use --device cuda: each process then takes a GPU of its own.",
        )
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=_LONGEST_STAGE)
    try:
        yield state.process_index
    finally:
        state.destroy_process_group()
