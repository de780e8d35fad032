"""Verify a written file by reading it again, independently of the writer."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gguf import quants

from edgeprune.formats import forms
from edgeprune.formats import metadata as sparsity_metadata
from edgeprune.formats.codes import nonzero
from edgeprune.formats.gguf.file import GgufFile, GgufTensor
from edgeprune.planning.grid import FILE_BLOCK, Grid
from edgeprune.support.environment import cores
from edgeprune.support.errors import CheckFailed
from exporters.base import Model, TensorFacts
from exporters.gguf.plan import PlannedTensor, read_rows

_WEIGHTS_AT_ONCE = 1 << 20


def verify(
    file: GgufFile,
    model: Model,
    tensors: list[PlannedTensor],
    advance: Callable[[], None],
    lossy_zeros: bool = False,
) -> list[TensorFacts]:
    """Compare a written file with its plan and with the pruned checkpoint.

    Every tensor must have its planned shape, type and alphabet, and finite values; every zero of a
    pruned tensor must be zero in the file, unless ``lossy_zeros`` is set, which only counts lost
    zeros.

    Raises:
        CheckFailed: a tensor fails; the message names the first one.
    """
    written = {tensor.name: tensor for tensor in file.tensors}
    if set(written) != {tensor.name for tensor in tensors}:
        raise CheckFailed("The tensors of the written file differ from the plan.")

    def check(tensor: PlannedTensor) -> TensorFacts:
        found = written[tensor.name]
        if found.shape != tensor.shape or found.type != tensor.type:
            raise CheckFailed(
                f"{tensor.name} was written as {found.type.name} {found.shape}, but planned as "
                f"{tensor.type.name} {tensor.shape}."
            )
        if tensor.alphabet and not _uses(found, tensor.alphabet):
            raise CheckFailed(
                f"{tensor.name} has codes that are not of its alphabet {tensor.alphabet.name}.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        fact = _facts(tensor, found, model)
        if fact.lost_zeros and not lossy_zeros:
            raise CheckFailed(
                f"{tensor.name}: {fact.lost_zeros} pruned weights are no longer zero in "
                f"{tensor.type.name}.",
                "This is a bug in the exporter, or the file was changed; please report it.",
            )
        advance()
        return fact

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(check, tensors))


def _uses(tensor: GgufTensor, alphabet: Grid) -> bool:
    """Tell whether all codes and scales of a written tensor are an alphabet's."""
    form, _ = forms.find(tensor.type.name, tensor.data.reshape(-1), tensor.shape[-1])
    return form.bits <= alphabet.bits and form.group * FILE_BLOCK >= alphabet.block


def _nonzero(tensor: GgufTensor, rows: slice) -> np.ndarray:
    """Find the non-zero weights in some rows of a written tensor."""
    part = tensor.data[rows]
    try:
        found = nonzero(tensor.type.name, part.reshape(-1))
        if found is None:
            values = quants.dequantize(part, tensor.type)
            if not np.isfinite(values).all():
                raise ValueError("values are NaN or infinite")
            found = values != 0
    except ValueError as error:
        raise CheckFailed(f"{tensor.name} is invalid: its {error}.") from None
    return found.reshape(-1, *tensor.shape[1:])


def check_counts(file: GgufFile, facts: list[TensorFacts]) -> None:
    """Compare the non-zero counts in a file's metadata with those of its bytes.

    Raises:
        CheckFailed: the counts differ.
    """
    metadata = sparsity_metadata.read_gguf(file)
    counted = {tensor.name: tensor.nonzeros for tensor in facts if tensor.pruned}
    if (metadata.nonzeros if metadata else {}) != counted:
        raise CheckFailed(
            "The non-zero counts in the metadata differ from those of the file's bytes."
        )


def _facts(tensor: PlannedTensor, found: GgufTensor, model: Model) -> TensorFacts:
    pruned = tensor.source in model.pruned
    source = read_rows(model, tensor) if pruned else None
    nonzeros = kept = lost = 0
    step = max(1, _WEIGHTS_AT_ONCE * tensor.shape[0] // math.prod(tensor.shape))
    cuts = [slice(start, start + step) for start in range(0, tensor.shape[0], step)]
    for rows in cuts if len(tensor.shape) > 1 else [slice(None)]:
        there = _nonzero(found, rows)
        nonzeros += int(np.count_nonzero(there))
        if source is not None:
            wanted = source[rows] != 0
            kept += int(np.count_nonzero(wanted))
            lost += int(np.count_nonzero(there & ~wanted))
    return TensorFacts(
        tensor.name,
        tensor.source,
        tensor.type.name,
        tensor.shape,
        found.size,
        pruned,
        nonzeros,
        kept - (nonzeros - lost) if pruned else 0,
        lost,
    )
