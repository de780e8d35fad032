"""Re-opening the file and counting: nothing the writer believed is taken on trust."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import quants

from edgeprune.errors import CheckFailed
from edgeprune.sparsity import metadata as sparsity_metadata
from edgeprune.sparsity.gguf_file import open_gguf
from exporters.artifact import Model, TensorFacts
from exporters.gguf.plan import PlannedTensor, read_rows


def verify(
    path: Path, model: Model, tensors: list[PlannedTensor], advance: Callable[[], None]
) -> list[TensorFacts]:
    """Compare a written file with what was planned and with the pruned checkpoint.

    Every tensor must be there in its shape and type and hold finite numbers; every zero of a
    pruned tensor must be a zero of the file; the metadata must give the counted non-zeros.

    Raises:
        CheckFailed: naming the first tensor that does not hold.
    """
    reader = open_gguf(path)
    written = {tensor.name: tensor for tensor in reader.tensors}
    if set(written) != {tensor.name for tensor in tensors}:
        raise CheckFailed(f"{path} holds other tensors than planned.")
    facts = []
    for tensor in tensors:
        found = written[tensor.name]
        shape = tuple(int(n) for n in reversed(found.shape))
        if shape != tensor.shape or found.tensor_type != tensor.type:
            raise CheckFailed(
                f"{tensor.name} was written as {found.tensor_type.name} {shape}, planned "
                f"{tensor.type.name} {tensor.shape}."
            )
        values = quants.dequantize(found.data, found.tensor_type).reshape(shape)
        if not np.isfinite(values).all():
            raise CheckFailed(f"{tensor.name} holds values that are not finite.")
        facts.append(_facts(tensor, values, found.n_bytes, model))
        advance()
    metadata = sparsity_metadata.read_gguf(reader)
    counted = {tensor.name: tensor.nonzeros for tensor in facts if tensor.pruned}
    if (metadata.nonzeros if metadata else {}) != counted:
        raise CheckFailed(f"{path}: the metadata's non-zero counts are not those of its bytes.")
    return facts


def _facts(tensor: PlannedTensor, values: np.ndarray, size: int, model: Model) -> TensorFacts:
    pruned = tensor.source in model.pruned
    nonzeros = int(np.count_nonzero(values))
    rounded = 0
    if pruned:
        kept = read_rows(model, tensor) != 0
        lost = int(np.count_nonzero(values[~kept]))
        if lost:
            raise CheckFailed(
                f"{tensor.name}: {lost} of {int((~kept).sum())} pruned weights are no longer zero "
                f"in {tensor.type.name}.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        rounded = int(kept.sum()) - nonzeros
    return TensorFacts(
        tensor.name, tensor.source, tensor.type.name, tensor.shape, size, pruned, nonzeros, rounded
    )
