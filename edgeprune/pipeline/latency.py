"""What storages cost in time: the model is timed in each of them on this machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.pipeline.export import quantized_by
from edgeprune.pipeline.job import Job, dense_model, wanted
from edgeprune.planning.patterns import Budget
from edgeprune.planning.stored import Stored
from edgeprune.planning.tensors import Role, TensorPlan, table
from edgeprune.support import environment
from edgeprune.support.files import sha256_json

_VERSION = 3
_DECODE = 64  # tokens of a timing
_PROCESSES = 3


def seconds_a_token(
    job: Job, rows: Mapping[str, Mapping[str, TensorPlan]], ways: Mapping[str, Stored]
) -> dict[str, dict[str, float]]:
    """Find what each tensor costs of a token's time in each storage, so that costs add up.

    The dense model is written with all its blocks in one storage, for each of them, and with its
    embedding in each of those that it may have, and decodes in turns. A block's tensors share the
    time by their sizes, with what is fixed; of the embedding, or the head if there is one, only
    differences count. Interpolation between measured files needs no model of caches or kernels.

    Args:
        job: the build.
        rows: by tensor and storage, the tensor in it.
        ways: storages of blocks by name.

    Returns:
        Seconds by tensor and storage.
    """
    inside = {n: of for n, of in rows.items() if next(iter(of.values())).block is not None}
    outside = {n: of for n, of in rows.items() if n not in inside}
    blocks = list(dict.fromkeys(storage for of in inside.values() for storage in of))
    tables = list(dict.fromkeys(storage for of in outside.values() for storage in of))
    measured = _timed(job, [ways[name] for name in blocks], tables)
    size = {name: next(iter(of.values())).size for name, of in rows.items()}
    total = sum(size[name] for name in inside)
    found = {
        name: {s: measured[f"blocks {s}"] * size[name] / total for s in of}
        for name, of in inside.items()
    }
    fastest = min((measured[f"table {s}"] for s in tables), default=0.0)
    reads = _read_whole(outside)
    return found | {
        name: {s: (measured[f"table {s}"] - fastest) if name == reads else 0.0 for s in of}
        for name, of in outside.items()
    }


def kept_under(job: Job, rows: Mapping[str, Mapping[str, TensorPlan]]) -> str:
    """Hash what the times depend on."""
    from edgeprune.runtime.llamacpp.availability import fingerprint

    machine = environment.describe()
    names = {name: list(of) for name, of in rows.items()}
    return sha256_json(
        [_VERSION, job.checkpoint.sha256, job.exporter.name, names, fingerprint(),
         machine["processor"], machine["versions"], _threads(job), job.recipe.goal.runtime]
    )  # fmt: skip


def _read_whole(outside: Mapping[str, Mapping[str, TensorPlan]]) -> str:
    """Name the tensor that makes logits: the head, or a tied embedding."""
    roles = {next(iter(of.values())).role: name for name, of in outside.items()}
    return roles.get(Role.HEAD) or roles.get(Role.EMBEDDING, "")


def _timed(job: Job, blocks: list[Stored], tables: list[str]) -> dict[str, float]:
    """Write the dense model in each storage, and time it: seconds a token by storage."""
    from runtime_tests.bench import Lengths, bench
    from runtime_tests.paired import by_process

    table_at_first = tables[-1] if tables else ""
    asked = {f"blocks {way.name}": (way, table_at_first) for way in blocks}
    # Behind blocks that need edgeprune's runtime, if any does: it runs the head as well, and a file
    # of plain types all in all is stock llama.cpp's.
    asked |= {f"table {s}": (blocks[-1], s) for s in tables}
    folder = job.run.work / "times"
    paths: dict[str, Path] = {}
    with job.run.progress.stage("write in each storage", len(asked)) as stage:
        for name, (inside, outside) in asked.items():
            paths[name] = folder / f"{len(paths)}.{job.exporter.name}"
            _write(job, inside, outside, paths[name])
            stage.advance()
    lengths = Lengths(
        decode=(_DECODE,),
        prefill=(),
        threads=(_threads(job),),
        processes=_PROCESSES,
        first_token=False,
    )
    rows = bench(paths, lengths, job.run.progress.stage)["rows"]
    job.run.drop("times")
    return {
        row["artifact"]: 1 / float(np.mean(by_process(row["samples"])))
        for row in rows
        if row["test"] == f"tg{_DECODE}"
    }


def _write(job: Job, inside: Stored, outside: str, path: Path) -> None:
    """Write the dense model in one storage, without its smallest weights if that has zeros."""
    ask = replace(wanted(job.recipe), type=inside.type, embedding=outside, head=outside,
                  overrides=())  # fmt: skip
    model, metadata = dense_model(job.checkpoint), None
    file = job.exporter.plan(model, ask)
    plan = table(file.tensors)
    if inside.sparsity:
        zeroed = job.run.work / "times" / "zeroed.safetensors"
        names = _zeroed(job, inside, zeroed)
        model = replace(
            model,
            weights=Weights([*job.checkpoint.weight_files, zeroed]),
            pruned=frozenset(names),
        )
        plan = plan.with_zeros(names, inside.pattern, inside.sparsity)
        metadata = SparsityMetadata(
            inside.pattern.name, inside.sparsity, "magnitude", job.recipe.pruning.fusion.mode,
            job.recipe.data.task, {}, job.checkpoint.sha256,
        )  # fmt: skip
    with job.run.progress.stage("export", file.steps) as stage:
        file.export(model, plan, path, metadata, quantized_by(), stage)


def _zeroed(job: Job, way: Stored, path: Path) -> dict[str, int]:
    """Write the matrices of the blocks without their smallest weights; return their zeros."""
    weights, tensors = job.checkpoint.weights(), {}
    for row in job.file.tensors:
        if row.prunable:
            weight = weights.read(row.name)
            budget = Budget(way.pattern, way.of(row).zeros)
            tensors[row.name] = weight * budget.keep(weight.abs().float())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors)
    return {row.name: way.of(row).zeros for row in job.file.tensors if row.name in tensors}


def _threads(job: Job) -> int:
    return job.recipe.measurement.threads or environment.cores()
