"""One point of a search or an ablation: prune, export and score, with the result cached."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgeprune.data.rows import Row
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model, quantized_by
from edgeprune.pipeline.job import Job, dense_model, wanted
from edgeprune.pipeline.keys import sparse_key
from edgeprune.pipeline.measure import measure_plan
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.support.files import read_json, sha256_json, write_json


def trial(
    job: Job, rows: list[Row] | None = None, dense_statistics: Path | None = None
) -> dict[str, Any]:
    """Measure the quality of a recipe's artifact, without keeping the artifact.

    Args:
        job: the trial's job; sparsity 0 is the dense model in the recipe's type. Its folder keeps
            one small record per trial, and the unfinished pruning, which a killed run resumes.
        rows: rows to score on; by default the evaluation rows.
        dense_statistics: as in `edgeprune.engine.prune`.

    Returns:
        The result of `runtime_tests.quality`, and the actual ``sparsity`` of the pruned tensors.
    """
    import runtime_tests

    recipe, folder = job.recipe, job.run.folder
    asked = measure_plan(recipe, job.data, rows)
    changes = recipe.pruning.sparsity or recipe.training.enabled or planner.grids(job)
    key = sha256_json(
        [
            sparse_key(job) if changes else job.checkpoint.sha256,
            [job.exporter.name, asdict(wanted(recipe)), quantized_by()],
            [asdict(item) for item in asked.items],
            [asked.metric, asked.perplexity_tokens, asked.general_text],
            [dense_statistics is not None],
        ]
    )
    record = folder / f"trial-{key[:16]}.json"
    if known := read_json(record):
        return known
    at_work = replace(job, run=replace(job.run, folder=folder / "trial"))
    plan = planner.plan(at_work)
    pruned = sparsify(at_work, plan, dense_statistics).checkpoint
    model, metadata = dense_model(job.checkpoint), None
    if pruned:
        model, metadata = pruned_model(job, pruned)
    path = at_work.run.folder / job.exporter.artifact
    with job.run.progress.stage("export", job.file.steps) as stage:
        job.file.export(model, plan, path, metadata, quantized_by(), stage)
    result = runtime_tests.quality(path, asked, job.run.progress.stage)
    result["sparsity"] = 0.0
    if pruned:
        sizes = [rows * columns for rows, columns in (record.shape for record in pruned.records)]
        result["sparsity"] = 1 - sum(r.nonzeros for r in pruned.records) / sum(sizes)
        errors = [r.error for r in pruned.records if r.error is not None]
        result["layer_error"] = sum(errors) / len(errors) if errors else None
    write_json(record, result)
    shutil.rmtree(at_work.run.folder)
    return result
