"""Plans of tiny models without a target: every tensor is stored as it is."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeprune.data.streams import Stream
from edgeprune.engine import PrunedCheckpoint, Pruning, prune
from edgeprune.models import Checkpoint
from edgeprune.pipeline import planner
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.planning.grid import Grid
from edgeprune.planning.tensors import ModelPlan, Storage, TensorPlan
from edgeprune.recipe import Recipe
from edgeprune.support.progress import Quiet


def rows_of(checkpoint: Checkpoint, grid: Grid | None = None) -> list[TensorPlan]:
    """A row for every tensor of a checkpoint; matrices of its blocks stand on ``grid``."""
    weights = checkpoint.weights()
    rows = []
    for name in weights.names():
        row = TensorPlan(name, name, weights.shape(name), Storage("F32", 0))
        if grid and row.prunable:
            row = TensorPlan(name, name, row.shape, Storage("GRID", 0, grid))
        rows.append(row)
    return rows


def uniform_plan(
    checkpoint: Checkpoint,
    sparsity: float = 0.5,
    pattern: str = "unstructured",
    grid: Grid | None = None,
    **options: Any,
) -> ModelPlan:
    """What the planner makes of a recipe whose allocation measures nothing.

    Args:
        checkpoint: the dense model.
        sparsity: ignored where the pattern fixes it.
        pattern: as recipes spell it.
        grid: what the matrices of blocks are rounded to.
        options: other settings of pruning, such as ``head`` or ``allocation``.
    """
    asked = {"pattern": pattern, **options}
    if pattern == "unstructured":
        asked["sparsity"] = sparsity
    recipe = Recipe.of({"data.task": "none", "pruning": asked})
    return planner.by_rule(recipe, rows_of(checkpoint, grid))


def prune_uniformly(
    checkpoint: Checkpoint,
    streams: dict[str, Stream],
    pruning: Pruning,
    folder: Path,
    *,
    sparsity: float = 0.5,
    pattern: str = "unstructured",
    **options: Any,
) -> PrunedCheckpoint:
    """`edgeprune.engine.prune` by a `uniform_plan`."""
    plan = uniform_plan(checkpoint, sparsity, pattern, head=pruning.head)
    return prune(checkpoint, streams, pruning, plan, folder, Quiet(), **options)


class StreamJob(Job):
    """A job whose streams are given, not made of rows: there is no tokenizer."""

    tokenizer = None


def job_of(
    checkpoint: Checkpoint, streams: Mapping[str, Stream], folder: Path, **options: Any
) -> StreamJob:
    """What the planner asks of a build, for a recipe with these settings of pruning."""
    source = SimpleNamespace(calibration_hash="0")
    data = SimpleNamespace(general=source, task=source, streams=lambda *_: dict(streams))
    return StreamJob(
        recipe=Recipe.of({"data.task": "none", "data.chat": "none", "pruning": options}),
        checkpoint=checkpoint,
        data=data,  # type: ignore[arg-type]
        exporter=None,  # type: ignore[arg-type]
        file=SimpleNamespace(tensors=rows_of(checkpoint), steps=0),  # type: ignore[arg-type]
        run=Workspace(folder, Quiet()),
    )
