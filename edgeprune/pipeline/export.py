"""Export the artifact, its dense baseline in the same type, and the packed file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights
from edgeprune.pipeline.job import Job, dense_model, wanted
from edgeprune.planning.tensors import ModelPlan, table
from edgeprune.support import environment
from edgeprune.support.errors import UsageError
from edgeprune.support.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from edgeprune.engine import PrunedCheckpoint
    from edgeprune.pipeline.sparsify import Sparse
    from exporters.base import Model

_VERSION = 5
# Facts about one artifact, as manifests hold them.
Facts = dict[str, Any]


def quantized_by() -> str:
    """Return the tool name that artifacts record."""
    return f"edgeprune {environment.describe()['versions']['edgeprune']}"


def export(
    job: Job,
    plan: ModelPlan,
    sparse: "Sparse",
    own: tuple[Job, ModelPlan] | None = None,
) -> dict[str, Facts]:
    """Export the build's artifact and the dense baseline that it is compared with.

    Args:
        job: the build.
        plan: of its tensors.
        sparse: the weights.
        own: job and plan of the artifact, where its model has tokens that the dense one has not.

    Returns:
        Facts about ``dense``, and about ``pruned`` if anything was pruned, rounded or trained.
    """
    if job.recipe.goal.choose:
        return _beside_rivals(job, sparse, own or (job, plan))
    kind = job.recipe.artifact.type.partition(":")[0]
    baseline = job.run.work / f"dense-{kind}.{job.exporter.name}"
    result = job.run.folder / job.exporter.artifact
    dense = dense_model(job.checkpoint)
    if sparse.checkpoint is None:
        return {"dense": _export(job, plan, "dense", dense, None, job.checkpoint.sha256, result)}
    pruned, metadata = pruned_model(job, sparse.checkpoint)
    key = sha256_json([metadata and asdict(metadata), sparse.key])
    stock = plan.without_alphabets()  # what anyone could make of the dense model
    return {
        "dense": _export(job, stock, "dense", dense, None, job.checkpoint.sha256, baseline),
        "pruned": _export(*(own or (job, plan)), "pruned", pruned, metadata, key, result),
    }


def _beside_rivals(job: Job, sparse: "Sparse", own: tuple[Job, ModelPlan]) -> dict[str, Facts]:
    """Export a build whose storages were chosen, and what anyone makes of the dense model."""
    assert sparse.checkpoint
    pruned, metadata = pruned_model(job, sparse.checkpoint)
    key = sha256_json([metadata and asdict(metadata), sparse.key])
    result = job.run.folder / job.exporter.artifact
    smallest = job.exporter.choices["stock"][-1].type
    return {
        "dense": dense_baseline(job),
        f"dense {smallest}": dense_baseline(job, smallest),
        "pruned": _export(*own, "pruned", pruned, metadata, key, result),
    }


def dense_baseline(job: Job, kind: str = "") -> Facts:
    """Export the dense model as anyone could make it, in one type of the target.

    Args:
        job: the build.
        kind: the type, of embedding and head too; empty: the target's default, by its own rules.
    """
    own = kind or job.exporter.default_type
    rules = {"artifact.type_map": {}, "artifact.embedding_type": kind or "auto",
             "artifact.head_type": kind or "auto"}  # fmt: skip
    plain = job.changed(rules).in_type(own)
    path = job.run.work / f"dense-{own}.{job.exporter.name}"
    name = f"dense {kind}" if kind else "dense"
    model = dense_model(job.checkpoint)
    return _export(plain, table(plain.file.tensors), name, model, None, job.checkpoint.sha256, path)


def pruned_model(job: Job, pruned: "PrunedCheckpoint") -> "tuple[Model, SparsityMetadata | None]":
    """Prepare a pruned checkpoint for an exporter, with its artifact's metadata."""
    from exporters.base import Model

    calibration, recipe = Weights(pruned.calibration), job.recipe
    base, weights = pruned.base, pruned.weights()
    if not recipe.pruning.sparsity:  # only rounded, or trained
        return Model(base.folder, weights, gguf=base.gguf, calibration=calibration), None
    names = frozenset(record.name for record in pruned.records if record.sparsity)
    metadata = SparsityMetadata(
        pattern=recipe.pruning.pattern,
        target=recipe.pruning.sparsity,
        method=recipe.pruning.method,
        fusion=recipe.pruning.fusion.mode,
        task=recipe.data.task,
        recipe=recipe.model_dump(),
        base_sha256=base.sha256,
    )
    return Model(base.folder, weights, names, base.gguf, calibration), metadata


def _export(
    job: Job,
    plan: ModelPlan,
    name: str,
    model: "Model",
    metadata: SparsityMetadata | None,
    key: str,
    path: Path,
) -> Facts:
    """Write one artifact, unless it exists from an earlier run."""
    folder = job.run.folder
    file = str(path.relative_to(folder))
    types = {row.name: row.storage.name for row in plan.tensors.values()}
    made_from = [_VERSION, key, asdict(wanted(job.recipe)), types, quantized_by(), path.name]

    def write() -> Facts:
        if path.parent == folder:
            _forget(folder)
        with job.run.progress.stage(f"export {name}", job.file.steps) as stage:
            artifact = job.file.export(model, plan, path, metadata, quantized_by(), stage)
        files = {str(part.relative_to(folder)): sha256_file(part) for part in artifact.files}
        return {
            "file": file,
            "sha256": sha256_json(files) if path.is_dir() else files[file],
            "bytes": sum(part.stat().st_size for part in artifact.files),
            "files": files,
            "tensors": [asdict(tensor) for tensor in artifact.tensors],
        }

    return job.run.reuse(
        f"export-{name}", sha256_json(made_from), write,
        still_good=lambda facts: unchanged(folder, facts["files"]),
    )  # fmt: skip


def _forget(folder: Path) -> None:
    """Remove the report and manifest of an earlier artifact."""
    from edgeprune import report

    for name in ("manifest.json", *report.FILES):
        (folder / name).unlink(missing_ok=True)


def unchanged(folder: Path, files: dict[str, str]) -> bool:
    """Tell whether files exist with their recorded SHA-256."""
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in files.items()
    )


def pack(job: Job, artifact: Facts) -> Facts | None:
    """Write the packed file beside the artifact if the recipe asks for it, and return its sizes."""
    from edgeprune.formats.packers import packed_name, packer

    if not job.exporter.opens_packed:
        return None
    folder = job.run.folder
    source = folder / artifact["file"]
    path = packed_name(source)

    def write() -> Facts:
        path.unlink(missing_ok=True)  # of an earlier build, not of this artifact
        with job.run.progress.stage("pack", artifact["bytes"]) as stage:
            sizes = packer(source).pack(source, path, stage.advance)
        parts = (path, path.with_name(f"{path.name}.data"))
        files = {part.name: sha256_file(part) for part in parts if part.exists()}
        return {"file": path.name, "files": files} | sizes

    try:
        if job.recipe.artifact.pack:
            return job.run.reuse(
                "pack",
                sha256_json(artifact["files"]),  # of ONNX, the weights are in a file of their own
                write,
                still_good=lambda facts: unchanged(folder, facts["files"]),
            )
    except UsageError as nothing_to_gain:
        job.run.progress.note(f"Not packed: {nothing_to_gain}")
    path.unlink(missing_ok=True)
    return None
