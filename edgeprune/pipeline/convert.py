"""Export a model as it is, for Python."""

from pathlib import Path
from typing import TYPE_CHECKING

import exporters
from edgeprune.models import open_checkpoint
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import quantized_by
from edgeprune.pipeline.job import dense_model, wanted
from edgeprune.recipe.schema import Recipe
from edgeprune.support.extras import need
from edgeprune.support.progress import Progress, Quiet

if TYPE_CHECKING:
    from exporters.base import Artifact


def export(
    model: str | Path,
    out: Path,
    target: str = "gguf",
    type: str = "",
    progress: Progress | None = None,
) -> "Artifact":
    """Write a model in a target's format and verify it; its zeros stay zeros.

    >>> export("pruned/", Path("model.gguf"), type="q4_0")  # doctest: +SKIP

    Args:
        model: anything ``--model`` takes.
        out: the file to write, or the folder for transformers.
        target: as ``--target``.
        type: as ``--type``; by default the target's own.
        progress: receives progress of every stage.

    Raises:
        EdgepruneError: as `edgeprune.build`.
    """
    values = {"artifact.target": target, "artifact.type": type, "pruning.sparsity": 0}
    recipe = Recipe.of({**values, "model.name": str(model), "data.task": "medqa"})
    exporter = exporters.get(recipe.artifact.target)
    need("torch", "transformers", *exporter.requirements)
    told = progress or Quiet()
    dense = dense_model(open_checkpoint(str(model), told))
    file = exporter.plan(dense, wanted(recipe))
    plan = planner.by_rule(recipe, list(file.tensors)).without_grids()
    with told.stage("export", file.steps) as stage:
        return file.export(dense, plan, out, None, quantized_by(), stage)
