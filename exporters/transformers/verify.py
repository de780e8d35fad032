"""Re-opening the folder and counting: nothing the writer believed is taken on trust."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.formats.weights import Weights, weight_files
from edgeprune.planning.patterns import UNSTRUCTURED, Pattern
from edgeprune.planning.tensors import TensorPlan
from edgeprune.support.errors import CheckFailed
from exporters.base import Model, TensorFacts


def verify(
    folder: Path,
    model: Model,
    tensors: Sequence[TensorPlan],
    advance: Callable[[], None],
    pattern: Pattern = UNSTRUCTURED,
) -> list[TensorFacts]:
    """Compare written weights with what was planned and with the pruned checkpoint.

    Every tensor must be there in its shape and type and hold finite numbers; every zero of a
    pruned tensor must be a zero of the file, and the ``pattern`` must hold along the inputs.

    Raises:
        CheckFailed: naming the first tensor that does not hold.
    """
    written = Weights(weight_files(folder))
    if set(written.names()) != {row.name for row in tensors}:
        raise CheckFailed("The written folder holds other tensors than planned.")
    facts = []
    for row in tensors:
        found = (written.dtype(row.name), written.shape(row.name))
        if found != (row.storage.type, row.shape):
            raise CheckFailed(
                f"{row.name} was written as {found[0]} {found[1]}, planned {row.storage.type} "
                f"{row.shape}."
            )
        values = written.read(row.name)
        if not torch.isfinite(values).all():
            raise CheckFailed(
                f"{row.name} holds values that are not finite as {row.storage.type}.",
                "Take --type bf16 or f32, and check the model.",
            )
        facts.append(_facts(row, values, model))
        if facts[-1].pruned and not _holds(pattern, (values != 0).numpy()):
            raise CheckFailed(f"{row.name} is not {pattern.name} along its inputs.")
        advance()
    return facts


def _holds(pattern: Pattern, nonzero: np.ndarray) -> bool:
    """Along the inputs, which transformers' Conv1D stores first and all other layers last."""
    return pattern.holds(nonzero) or pattern.holds(nonzero.T)


def _facts(row: TensorPlan, values: Tensor, model: Model) -> TensorFacts:
    pruned = row.name in model.pruned
    nonzeros = int(values.count_nonzero())
    rounded = 0
    if pruned:
        kept = model.weights.read(row.name) != 0
        if lost := int(values[~kept].count_nonzero()):
            raise CheckFailed(
                f"{row.name}: {lost} pruned weights are no longer zero.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        rounded = int(kept.sum()) - nonzeros
    size = values.element_size() * values.numel()
    return TensorFacts(
        row.name, row.name, row.storage.type, row.shape, size, pruned, nonzeros, rounded
    )
