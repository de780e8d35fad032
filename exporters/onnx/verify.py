"""Verify a written model by reading it again, independently of the writer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.onnx.metadata import read_onnx
from edgeprune.planning.patterns import UNSTRUCTURED, Pattern
from edgeprune.support.errors import CheckFailed
from exporters.base import Model, TensorFacts
from exporters.onnx.plan import PlannedTensor


def verify(
    path: Path,
    model: Model,
    planned: Mapping[str, PlannedTensor],
    advance: Callable[[], None],
    pattern: Pattern = UNSTRUCTURED,
) -> list[TensorFacts]:
    """Compare a written model with its plan and with the pruned checkpoint.

    Every tensor must have its planned shape and type and finite values; every zero of a pruned
    tensor must be zero in the file, and the ``pattern`` must hold along the inputs: the
    axis that is summed over, where TensorRT looks for it.

    Raises:
        CheckFailed: a tensor fails; the message names the first one.
    """
    written = {tensor.name: tensor for tensor in OnnxFile(path).tensors}
    if missing := set(planned) - set(written):
        raise CheckFailed(f"{path} lacks the tensor {sorted(missing)[0]}.")
    facts = []
    for tensor in planned.values():
        found = written[tensor.name]
        if found.shape != tensor.shape or found.type != tensor.type:
            raise CheckFailed(
                f"{tensor.name} was written as {found.type} {found.shape}, but planned as "
                f"{tensor.type} {tensor.shape}."
            )
        values = found.values()
        if not np.isfinite(values).all():
            raise CheckFailed(f"{tensor.name} contains NaN or infinite values.")
        facts.append(_facts(tensor, values, found.size, model))
        if facts[-1].pruned and not pattern.holds(values != 0):
            raise CheckFailed(
                f"{tensor.name} does not have the pattern {pattern.name} along its inputs."
            )
        advance()
    return facts


def check_counts(path: Path, facts: list[TensorFacts]) -> None:
    """Compare the non-zero counts in a model's metadata with those of its bytes.

    Raises:
        CheckFailed: the counts differ.
    """
    metadata = read_onnx(OnnxFile(path).properties)
    counted = {tensor.name: tensor.nonzeros for tensor in facts if tensor.pruned}
    if (metadata.nonzeros if metadata else {}) != counted:
        raise CheckFailed(
            f"{path}: the non-zero counts in the metadata differ from those of the bytes."
        )


def _facts(tensor: PlannedTensor, values: np.ndarray, size: int, model: Model) -> TensorFacts:
    pruned = tensor.name in model.pruned
    nonzeros = int(np.count_nonzero(values))
    rounded = 0
    if pruned:
        kept = model.weights.read(tensor.name).float().numpy() != 0
        if lost := int(np.count_nonzero(values[~kept])):
            raise CheckFailed(
                f"{tensor.name}: {lost} pruned weights are no longer zero in {tensor.type}.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        rounded = int(kept.sum()) - nonzeros
    return TensorFacts(
        tensor.name, tensor.name, tensor.type, tensor.shape, size, pruned, nonzeros, rounded
    )
