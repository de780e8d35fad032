"""From a checkpoint to a verified GGUF file."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.plan.grid import Grid
from edgeprune.support.errors import CheckFailed
from edgeprune.support.files import atomic_path, flush
from exporters.artifact import Artifact, Model, Stage, Storage
from exporters.gguf.grids import GRIDS
from exporters.gguf.hyperparameters import read_config
from exporters.gguf.imatrix import write_imatrix
from exporters.gguf.plan import plan_tensors
from exporters.gguf.same_ids import check_same_ids
from exporters.gguf.tokenizer import check_tokenizer
from exporters.gguf.verify import check_counts, verify
from exporters.gguf.write import set_counts, write


def check(model: Model, storage: Storage) -> None:
    """Refuse a model that can't be exported, from its configuration and headers alone.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
        CheckFailed: the tokenizer that was read from a GGUF file gives other ids than llama.cpp.
    """
    config, family = read_config(model.folder)
    plan_tensors(model, config, family, storage)
    if model.gguf:  # its tokenizer is kept, and the folder's, calibrated with, was made from it
        check_same_ids(model.gguf, model.folder)
    else:
        check_tokenizer(model.folder)


def grids(model: Model, storage: Storage) -> dict[str, Grid]:
    """The tensors whose rounding calibration may choose, by name in the checkpoint."""
    config, family = read_config(model.folder)
    return {
        tensor.source: GRIDS[tensor.type.name]
        for tensor in plan_tensors(model, config, family, storage)
        if tensor.type.name in GRIDS
    }


def steps(model: Model) -> int:
    """How many steps `export` reports: each tensor is written, then verified."""
    return 2 * len(model.weights.names())


def export(
    model: Model,
    storage: Storage,
    path: Path,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    stage: Stage,
) -> Artifact:
    """Write ``path`` and prove what it holds; it appears only if every check passed.

    Where calibration left what it saw, ``<name>.imatrix.gguf`` is written beside it.

    Args:
        model: what to export.
        storage: the types.
        path: the ``.gguf`` file.
        metadata: facts about the zeros, without their counts; None for a dense model.
        quantized_by: written to ``general.quantized_by``.
        stage: told of every tensor written and verified.

    Raises:
        InputError: the architecture or the tokenizer is not supported.
        CheckFailed: zeros were lost, the file is not what was planned, or llama.cpp cuts text into
            other tokens than the checkpoint's tokenizer.
    """
    config, family = read_config(model.folder)
    tensors = plan_tensors(model, config, family, storage)
    if left_out := model.pruned - {tensor.source for tensor in tensors}:
        raise CheckFailed(f"Pruned tensors have no place in the file: {sorted(left_out)}.")
    with atomic_path(path) as temporary:
        write(
            temporary,
            model,
            config,
            family,
            tensors,
            storage,
            metadata,
            quantized_by,
            stage.advance,
        )
        with ThreadPoolExecutor(2) as beside:
            stored = beside.submit(flush, temporary)  # the disk works while we read
            ids = beside.submit(check_same_ids, temporary, model.folder)
            written = open_gguf(temporary)
            facts = verify(written, model, tensors, stage.advance, storage.lossy_zeros)
            ids.result()
            stored.result()
        if metadata:
            counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
            metadata = replace(metadata, nonzeros=counted)
            set_counts(temporary, written, metadata)
        check_counts(written, facts)
    imatrix = path.with_name(f"{path.stem}.imatrix.gguf")
    if not write_imatrix(imatrix, model, tensors, [metadata.task if metadata else "calibration"]):
        imatrix.unlink(missing_ok=True)  # of an earlier export
    return Artifact(path, facts, metadata, (path,))
