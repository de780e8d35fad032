"""A model's blocks, compiled by torch: elementwise work is fused, on CPUs by a C++ compiler."""

from collections.abc import Callable
from typing import Any

from edgeprune.models.layers import decoder_blocks


def compile_blocks(*models: Any) -> None:
    """Compile every block at its next call; blocks of one kind share the result."""
    for model in models:
        for block in decoder_blocks(model)[1]:
            block.compile()


def run_plainly(*models: Any) -> None:
    """Undo that."""
    for model in models:
        for block in decoder_blocks(model)[1]:
            block._compiled_call_impl = None


def timed(run: Callable[[], float]) -> float:
    """What ``run`` gives, infinity if torch can't compile what it calls."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        return run()
    except TorchDynamoException:  # no compiler here, or a model that is beyond it
        return float("inf")
