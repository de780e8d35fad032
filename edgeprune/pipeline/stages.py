"""The stages of a build, each reused while its inputs are unchanged.

A stage's record holds the hash of everything it was made from. Code changes that would give other
weights or bytes raise the versions below.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.loading import Data
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights
from edgeprune.models import Checkpoint
from edgeprune.pipeline.measure import measure_plan
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe
from edgeprune.runtime.llamacpp import availability
from edgeprune.support import environment
from edgeprune.support.errors import UsageError
from edgeprune.support.files import read_json, sha256_file, sha256_json, write_json
from edgeprune.support.progress import Progress

if TYPE_CHECKING:
    from edgeprune.data.streams import Stream
    from edgeprune.engine import PrunedCheckpoint, Pruning
    from edgeprune.plan.grid import Grid
    from exporters.artifact import Model, Storage

_PRUNE_VERSION = 5
_EXPORT_VERSION = 4
_MEASURE_VERSION = 6
# The highest code of a grid with 8 bits.
_EIGHT_BITS = 127


def prune_stage(
    recipe: Recipe,
    checkpoint: Checkpoint,
    data: Data,
    folder: Path,
    progress: Progress,
    dense_statistics: Path | None = None,
) -> tuple["PrunedCheckpoint | None", dict[str, list[str]]]:
    """The pruned checkpoint, and the ids of the rows each stream was made of.

    ``dense_statistics`` is as in `edgeprune.engine.prune`; with it nothing is rounded yet. A dense
    model whose weights are rounded on the calibration data, or trained, comes out as pruned by
    nothing.
    """
    grids = {} if dense_statistics else _pruning_grids(recipe, checkpoint)
    if not (recipe.sparsity or recipe.recover or grids):
        return None, {"general": [], "task": []}
    from edgeprune.engine import finished, prune

    key = prune_key(recipe, checkpoint, data)
    work = prune_folder(folder, key)
    used: dict[str, list[str]] = read_json(work / "rows.json") or {}
    pruned = finished(checkpoint, work) if used else None
    if pruned is None:
        streams = _streams(recipe, checkpoint, data, progress)
        used = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", used)
    data.refuse_overlap(used)
    if pruned is None:
        pruned = prune(
            checkpoint, streams, pruning(recipe), work, progress, recipe.device, dense_statistics,
            grids,
        )  # fmt: skip
    for stale in (folder / "work").glob("prune-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    return pruned, used


def _streams(
    recipe: Recipe, checkpoint: Checkpoint, data: Data, progress: Progress
) -> dict[str, "Stream"]:
    """Both token streams; says so if a source is too small to fill its own."""
    from edgeprune.models.loading import load_tokenizer

    with progress.stage("calibrate", 2) as stage:
        tokenizer = load_tokenizer(checkpoint)
        stage.advance()
        streams = data.streams(tokenizer, recipe.samples, recipe.length, recipe.seed)
        stage.advance()
    for name, stream in streams.items():
        if len(stream.tokens) < recipe.samples:
            progress.note(
                f"The {name} stream holds {len(stream.tokens)} of {recipe.samples} sequences: "
                "its rows are used up."
            )
    return streams


def prune_folder(folder: Path, key: str) -> Path:
    """Where a build keeps the pruning of a `prune_key`."""
    return folder / "work" / f"prune-{key[:16]}"


def prune_key(recipe: Recipe, checkpoint: Checkpoint, data: Data) -> str:
    """Hash of everything the pruned weights are made from."""
    from edgeprune.engine.device import compute_dtype, pick_device

    device = pick_device(recipe.device)
    return sha256_json(
        {
            "version": _PRUNE_VERSION,
            "model": checkpoint.sha256,
            "general": data.general.calibration_hash,
            "task": data.task.calibration_hash,
            "streams": [recipe.samples, recipe.length, recipe.seed],
            "pruning": asdict(pruning(recipe)),
            "grids": {n: asdict(g) for n, g in _pruning_grids(recipe, checkpoint).items()},
            "arithmetic": [str(device), str(compute_dtype(device))],
        }
    )


def pruning(recipe: Recipe) -> "Pruning":
    """How a recipe prunes, in the engine's terms."""
    from edgeprune.engine import Pruning
    from edgeprune.plan.allocation import Allocation
    from edgeprune.pruning.fusion import FusionRule
    from edgeprune.pruning.masks import Pattern

    return Pruning(
        method=recipe.method,
        fusion=FusionRule(
            mode=recipe.fusion,
            tau=recipe.fusion_tau,
            tau_mode=recipe.fusion_tau_mode,
            task_share=recipe.fusion_lambda,
            task_weight=recipe.fusion_task_weight,
            hessian=recipe.fusion_hessian,
        ),
        pattern=Pattern.parse(recipe.pattern),
        sparsity=recipe.sparsity,
        allocation=Allocation(
            recipe.allocation, recipe.allocation_spread, tuple(recipe.allocation_map.items())
        ),
        swaps=recipe.swaps,
        resolve=recipe.resolve,
        permute=recipe.permute,
        head=recipe.prune_head,
        sink_positions=recipe.sink_positions,
        answer_weight=recipe.answer_weight,
        surprising_weight=recipe.surprising_weight,
    )


def check_stage(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse what can't be exported before any work is done.

    Raises:
        InputError: naming the architecture, the tokenizer or the feature.
    """
    import exporters

    exporters.get(recipe.target).check(dense_model(checkpoint), storage(recipe))


def storage(recipe: Recipe) -> "Storage":
    """The types that a recipe asks for."""
    from exporters.artifact import Storage

    overrides = tuple(recipe.type_map.items())
    return Storage(
        recipe.type,
        overrides,
        recipe.allow_lossy_zeros or not recipe.sparsity,
        recipe.block_size,
        recipe.flavour,
    )


def rounding_grids(recipe: Recipe, checkpoint: Checkpoint) -> "dict[str, Grid]":
    """What the engine rounds tensors to; empty where the exporter rounds each weight by itself.

    Rounding with calibration data is worth its time below 8 bits, and is asked for else. It needs a
    method that looks at data.
    """
    import exporters

    blind = METHODS[recipe.method].sees == "nothing"
    if recipe.rounding == "feedback" and blind:
        raise UsageError(f"rounding 'feedback' needs data, and {recipe.method} sees none.")
    if blind or recipe.rounding == "nearest" or (recipe.rounding == "auto" and not recipe.sparsity):
        return {}
    grids = exporters.get(recipe.target).grids(dense_model(checkpoint), storage(recipe))
    chosen = {
        name: grid
        for name, grid in grids.items()
        if recipe.rounding == "feedback" or grid.high < _EIGHT_BITS
    }
    if recipe.rounding == "feedback" and not chosen:
        raise UsageError(
            f"rounding 'feedback' has no grid for type '{recipe.type}'.",
            "It knows q8_0, q5_0 and q4_0, the mixes made of them, int8 and int4.",
        )
    return chosen


def _pruning_grids(recipe: Recipe, checkpoint: Checkpoint) -> "dict[str, Grid]":
    """What pruning rounds to: nothing if weights are trained afterwards, and rounded then."""
    return {} if recipe.recover else rounding_grids(recipe, checkpoint)


def dense_model(checkpoint: Checkpoint) -> "Model":
    """The checkpoint as exporters see it."""
    from exporters.artifact import Model

    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)


def pruned_model(
    recipe: Recipe, pruned: "PrunedCheckpoint"
) -> tuple["Model", SparsityMetadata | None]:
    """A pruned checkpoint as exporters see it, and what its artifact says of itself."""
    from exporters.artifact import Model

    calibration = Weights(pruned.calibration)
    base, weights = pruned.base, pruned.weights()
    if not recipe.sparsity:  # only rounded
        return Model(base.folder, weights, gguf=base.gguf, calibration=calibration), None
    names = frozenset(record.name for record in pruned.records)
    metadata = SparsityMetadata(
        pattern=recipe.pattern,
        target=recipe.sparsity,
        method=recipe.method,
        fusion=recipe.fusion,
        task=recipe.task,
        recipe=recipe.model_dump(),
        base_sha256=base.sha256,
    )
    return Model(base.folder, weights, names, base.gguf, calibration), metadata


def export_stage(
    recipe: Recipe,
    checkpoint: Checkpoint,
    pruned: "PrunedCheckpoint | None",
    made_from: str,
    folder: Path,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """The artifact and its dense twin in the same type: facts about each file.

    ``made_from`` is the hash of everything that pruned and trained weights depend on.
    """
    twin = folder / "work" / f"dense-{recipe.type}.{recipe.target}" if pruned else None
    dense = dense_model(checkpoint)
    artifacts = {
        "dense": _export_one(
            recipe, "dense", dense, None, checkpoint.sha256, twin, folder, progress
        )
    }
    if pruned:
        sparse, metadata = pruned_model(recipe, pruned)
        key = sha256_json([metadata and asdict(metadata), made_from])
        artifacts["pruned"] = _export_one(
            recipe, "pruned", sparse, metadata, key, None, folder, progress
        )
    return artifacts


def _export_one(
    recipe: Recipe,
    name: str,
    model: "Model",
    metadata: SparsityMetadata | None,
    key: str,
    twin: Path | None,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write the build's result, or the ``twin`` that it is measured against."""
    import exporters
    from edgeprune import report

    target, stored = exporters.get(recipe.target), storage(recipe)
    path = twin or folder / artifact_name(recipe)
    full_key = sha256_json([_EXPORT_VERSION, key, asdict(stored), quantized_by(), path.name])

    def export() -> dict[str, Any]:
        if not twin:  # what was said of the last artifact is not true of the next
            for name_of_old in ("manifest.json", *report.FILES):
                (folder / name_of_old).unlink(missing_ok=True)
        with progress.stage(f"export {name}", target.steps(model)) as stage:
            artifact = target.export(model, stored, path, metadata, quantized_by(), stage)
        file = str(path.relative_to(folder))
        files = {str(part.relative_to(folder)): sha256_file(part) for part in artifact.files}
        return {
            "file": file,
            "sha256": files[file],
            "bytes": sum(part.stat().st_size for part in artifact.files),
            "files": files,
            "tensors": [asdict(tensor) for tensor in artifact.tensors],
        }

    return _reuse(
        folder / "work" / f"export-{name}.json",
        full_key,
        export,
        still_good=lambda facts: _unchanged(folder, facts["files"]),
    )


def artifact_name(recipe: Recipe) -> str:
    """What a build's result is called."""
    return f"model.{recipe.target}"


def _unchanged(folder: Path, files: dict[str, str]) -> bool:
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in files.items()
    )


def pack_stage(
    recipe: Recipe, artifact: dict[str, Any], folder: Path, progress: Progress
) -> dict[str, Any] | None:
    """The packed file beside the artifact and its sizes, if the recipe asks for one."""
    from edgeprune.formats.packers import packed_name, packer

    source = folder / artifact["file"]
    path = packed_name(source)

    def write() -> dict[str, Any]:
        path.unlink(missing_ok=True)  # of an earlier build, not of this artifact
        with progress.stage("pack", artifact["bytes"]) as stage:
            sizes = packer(source).pack(source, path, stage.advance)
        parts = (path, path.with_name(f"{path.name}.data"))
        files = {part.name: sha256_file(part) for part in parts if part.exists()}
        return {"file": path.name, "files": files} | sizes

    try:
        if recipe.pack:
            return _reuse(
                folder / "work" / "pack.json",
                sha256_json(artifact["files"]),  # of ONNX, the weights are in a file of their own
                write,
                still_good=lambda facts: _unchanged(folder, facts["files"]),
            )
    except UsageError as nothing_to_gain:
        progress.note(f"Not packed: {nothing_to_gain}")
    path.unlink(missing_ok=True)
    return None


def quantized_by() -> str:
    """What artifacts name as their maker."""
    return f"edgeprune {environment.describe()['versions']['edgeprune']}"


def measure_stage(
    recipe: Recipe,
    data: Data,
    artifacts: dict[str, dict[str, Any]],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the artifact beside its dense twin."""
    import runtime_tests

    plan = measure_plan(recipe, data)
    hashes = {name: facts["files"] for name, facts in artifacts.items()}
    surroundings = [environment.describe(), availability.fingerprint()]
    key = sha256_json([_MEASURE_VERSION, asdict(plan), hashes, surroundings])
    paths = {name: folder / facts["file"] for name, facts in artifacts.items()}

    results = _reuse(
        folder / "work" / "runtime-test.json",
        key,
        lambda: runtime_tests.run(paths, plan, progress.stage),
    )
    if recipe.target != "onnx":
        return results
    newest = paths.get("pruned", paths["dense"])
    gpus = _reuse(  # a record of its own: whatever happens there, the CPU's figures are kept
        folder / "work" / "runtime-test-gpus.json",
        key,
        lambda: runtime_tests.run_on_gpus(newest, plan, progress.stage),
        still_good=lambda found: not any("failed" in one for one in found.values()),
    )
    return results | {"gpus": gpus}


def _reuse(
    record: Path,
    key: str,
    make: Callable[[], dict[str, Any]],
    still_good: Callable[[dict[str, Any]], bool] = lambda _value: True,
) -> dict[str, Any]:
    """What a stage gave last time if its inputs are the same, else what it gives now."""
    known = read_json(record)
    if known and known.get("key") == key and still_good(known["value"]):
        return known["value"]
    value = make()
    write_json(record, {"key": key, "value": value})
    return value
