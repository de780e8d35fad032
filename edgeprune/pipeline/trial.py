"""One point of a search or an ablation: prune, export, score; done once and remembered."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.data.loading import Data
from edgeprune.data.rows import Row
from edgeprune.models import Checkpoint
from edgeprune.pipeline.measure import measure_plan
from edgeprune.pipeline.sparsify import sparse_key, sparse_stage
from edgeprune.pipeline.stages import (
    artifact_name,
    dense_model,
    pruned_model,
    quantized_by,
    rounding_grids,
    storage,
)
from edgeprune.recipe.schema import Recipe
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Progress


def trial(
    recipe: Recipe,
    checkpoint: Checkpoint,
    data: Data,
    folder: Path,
    progress: Progress,
    rows: list[Row] | None = None,
    dense_statistics: Path | None = None,
) -> dict[str, Any]:
    """Quality of the artifact that a recipe gives; the artifact itself isn't kept.

    Args:
        recipe: what to try; sparsity 0 is the dense model in the recipe's type.
        checkpoint: the dense model.
        data: the rows of the build.
        folder: keeps one small record a trial, and the pruning at work, which a killed run resumes.
        progress: told of every stage.
        rows: what to score on; by default the evaluation rows.
        dense_statistics: as in `edgeprune.engine.prune`.

    Returns:
        What `runtime_tests.quality` gives, and ``sparsity`` of the pruned tensors as it came out.
    """
    import exporters
    import runtime_tests

    plan = measure_plan(recipe, data, rows)
    changes = recipe.sparsity or recipe.recover or rounding_grids(recipe, checkpoint)
    key = sha256_json(
        [
            sparse_key(recipe, checkpoint, data) if changes else checkpoint.sha256,
            [recipe.target, asdict(storage(recipe)), quantized_by()],
            [(item.id, item.prompt, item.continuations) for item in plan.items],
            [plan.metric, plan.perplexity_tokens, plan.general_text],
            [dense_statistics is not None],
        ]
    )
    record = folder / f"trial-{key[:16]}.json"
    if known := read_json(record):
        return known
    work = folder / "trial"
    pruned = sparse_stage(recipe, checkpoint, data, work, progress, dense_statistics).checkpoint
    model, metadata = pruned_model(recipe, pruned) if pruned else (dense_model(checkpoint), None)
    target = exporters.get(recipe.target)
    path = work / artifact_name(recipe)
    with progress.stage("export", target.steps(model)) as stage:
        target.export(model, storage(recipe), path, metadata, quantized_by(), stage)
    result = runtime_tests.quality(path, plan, progress.stage)
    result["sparsity"] = 0.0
    if pruned:
        sizes = [rows * columns for rows, columns in (record.shape for record in pruned.records)]
        result["sparsity"] = 1 - sum(r.nonzeros for r in pruned.records) / sum(sizes)
        errors = [r.error for r in pruned.records if r.error is not None]
        result["layer_error"] = sum(errors) / len(errors) if errors else None
    write_json(record, result)
    shutil.rmtree(work)
    return result
