"""Score an artifact on a task and on general text, without timing it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.models import artifact_path
from edgeprune.pipeline.job import rows_for
from edgeprune.pipeline.measure import measure_plan
from edgeprune.recipe.schema import Recipe
from edgeprune.support.progress import Progress, Quiet

if TYPE_CHECKING:
    from edgeprune.manifest.results import Scores


def evaluate(
    artifact: str | Path, task: str, progress: Progress | None = None, **settings: Any
) -> "Scores":
    """Score a GGUF or ONNX file, or a transformers model, in its own runtime.

    >>> evaluate("model.gguf", "arc_easy").accuracy  # doctest: +SKIP

    Args:
        artifact: a file, a folder, or anything ``--model`` takes.
        task: as ``--task``.
        progress: receives progress of every stage.
        settings: settings of the recipe's section ``measurement``, such as ``eval_rows``, and
            ``general``.

    Raises:
        EdgepruneError: the task or the artifact cannot be used.
        CheckFailed: a likelihood is NaN or infinite.
    """
    import runtime_tests
    from edgeprune.manifest.results import Scores

    general = {"data.general": settings.pop("general")} if "general" in settings else {}
    measured = {f"measurement.{name}": value for name, value in settings.items()}
    recipe = Recipe.of({**general, **measured}, task=task)
    data = rows_for(recipe)
    told = progress or Quiet()
    found = runtime_tests.quality(
        artifact_path(str(artifact)), measure_plan(recipe, data), told.stage
    )
    return Scores.model_validate({"task": data.task.task.name, **found})
