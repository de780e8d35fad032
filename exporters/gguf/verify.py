"""Re-opening the file and counting: nothing the writer believed is taken on trust."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeprune.errors import CheckFailed
from edgeprune.sparsity import metadata as sparsity_metadata
from edgeprune.sparsity.gguf_file import open_gguf
from exporters.artifact import Model, TensorFacts
from exporters.gguf.plan import PlannedTensor, read_rows


def verify(
    path: Path,
    model: Model,
    tensors: list[PlannedTensor],
    advance: Callable[[], None],
    lossy_zeros: bool = False,
) -> list[TensorFacts]:
    """Compare a written file with what was planned and with the pruned checkpoint.

    Every tensor must be there in its shape and type and hold finite numbers; every zero of a
    pruned tensor must be a zero of the file, unless ``lossy_zeros`` has them only counted.

    Raises:
        CheckFailed: naming the first tensor that does not hold.
    """
    file = open_gguf(path)
    written = {tensor.name: tensor for tensor in file.tensors}
    if set(written) != {tensor.name for tensor in tensors}:
        raise CheckFailed(f"{path} holds other tensors than planned.")
    facts = []
    for tensor in tensors:
        found = written[tensor.name]
        if found.shape != tensor.shape or found.type != tensor.type:
            raise CheckFailed(
                f"{tensor.name} was written as {found.type.name} {found.shape}, planned "
                f"{tensor.type.name} {tensor.shape}."
            )
        values = found.values()
        if not np.isfinite(values).all():
            raise CheckFailed(f"{tensor.name} holds values that are not finite.")
        fact = _facts(tensor, values, found.size, model)
        if fact.lost_zeros and not lossy_zeros:
            raise CheckFailed(
                f"{tensor.name}: {fact.lost_zeros} pruned weights are no longer zero in "
                f"{tensor.type.name}.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        facts.append(fact)
        advance()
    return facts


def check_counts(path: Path, facts: list[TensorFacts]) -> None:
    """Hold the non-zeros that a file's metadata gives against those counted in its bytes.

    Raises:
        CheckFailed: they differ.
    """
    metadata = sparsity_metadata.read_gguf(open_gguf(path))
    counted = {tensor.name: tensor.nonzeros for tensor in facts if tensor.pruned}
    if (metadata.nonzeros if metadata else {}) != counted:
        raise CheckFailed(f"{path}: the metadata's non-zero counts are not those of its bytes.")


def _facts(tensor: PlannedTensor, values: np.ndarray, size: int, model: Model) -> TensorFacts:
    pruned = tensor.source in model.pruned
    nonzeros = int(np.count_nonzero(values))
    rounded = lost = 0
    if pruned:
        kept = read_rows(model, tensor) != 0
        lost = int(np.count_nonzero(values[~kept]))
        rounded = int(kept.sum()) - (nonzeros - lost)
    return TensorFacts(
        tensor.name,
        tensor.source,
        tensor.type.name,
        tensor.shape,
        size,
        pruned,
        nonzeros,
        rounded,
        lost,
    )
