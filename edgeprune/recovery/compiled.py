"""Compile a model's blocks with torch, which fuses elementwise work; CPUs need a C++ compiler."""

from typing import Any

from edgeprune.models.blocks import decoder_blocks
from edgeprune.recovery.step import TrainStep


def compile_if_faster(step: TrainStep, seconds: float) -> bool:
    """Compile both models, and undo it unless a step then takes less than these ``seconds``."""
    compile_blocks(*step.models)
    faster = _timed(step) < seconds
    if not faster:
        _run_plainly(*step.models)
        step.break_off()
    return faster


def compile_blocks(*models: Any) -> None:
    """Compile every block at its next call; blocks of the same kind share the result."""
    for model in models:
        for block in decoder_blocks(model)[1]:
            block.compile()


def _run_plainly(*models: Any) -> None:
    for model in models:
        for block in decoder_blocks(model)[1]:
            block._compiled_call_impl = None


def _timed(step: TrainStep) -> float:
    """Return the seconds of a step, or infinity if torch cannot compile the models."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        return step.timed()
    except TorchDynamoException:  # no compiler here, or a model that is beyond it
        return float("inf")
