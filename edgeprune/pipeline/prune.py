"""Prune without exporting, for Python: a transformers model or checkpoint in, pruned out."""

import tempfile
from pathlib import Path
from typing import Any

import exporters
from edgeprune.models.loading import load_model
from edgeprune.pipeline import max_loss, planner
from edgeprune.pipeline.export import pruned_model, quantized_by
from edgeprune.pipeline.job import Job, open_job
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe
from edgeprune.support.errors import UsageError
from edgeprune.support.extras import need
from edgeprune.support.progress import Progress, Quiet

_TARGET = "transformers"


def prune(
    model: Any,
    recipe: Recipe | None = None,
    *,
    tokenizer: Any = None,
    out: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Prune a transformers model for a task, and train it if the recipe says so.

    >>> prune("./my-llama", task="arc_easy", sparsity=0.5, out=Path("pruned"))  # doctest: +SKIP

    Nothing is measured; `edgeprune.build` does that.

    Args:
        model: a model that transformers has loaded, or anything ``--model`` takes.
        recipe: the recipe; its target and type are ignored.
        tokenizer: tokenizer of a loaded model.
        out: folder for the pruned checkpoint.
        progress: receives progress of every stage.
        options: instead of a recipe, settings by their option's name, as `Recipe.of` takes them.

    Returns:
        The folder if ``out`` is given. Else the model: the one that was given with its weights
        replaced, or a newly loaded one.

    Raises:
        EdgepruneError: as `edgeprune.build`.
    """
    need("torch", "transformers", "accelerate")
    if (recipe is None) != bool(options):
        raise UsageError("prune() takes either a recipe or options such as task='medqa', not both.")
    if out and out.exists():
        raise UsageError(f"{out} exists; nothing was overwritten.", "Give another folder.")
    loaded = None if isinstance(model, str | Path) else model
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as place:
        source = str(model) if loaded is None else _saved(model, tokenizer, Path(place, "model"))
        changes = {
            "model.name": source,
            "artifact.target": _TARGET,
            "artifact.type": exporters.get(_TARGET).default_type,
        }
        asked = (recipe or Recipe.of(**options)).changed(changes)
        job = open_job(asked, Workspace(Path(place, "build"), progress or Quiet()))
        found = _pruned(job, out)
        if out:
            return out
        if loaded is None:
            return found
        loaded.load_state_dict(found.state_dict())
        return loaded


def _saved(model: Any, tokenizer: Any, folder: Path) -> str:
    """Save a loaded model as a checkpoint."""
    if tokenizer is None:
        raise UsageError("A loaded model needs its tokenizer: prune(model, tokenizer=...).")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _pruned(job: Job, out: Path | None) -> Any:
    """Return the pruned model, or None after writing it to ``out``."""
    job, _ = max_loss.settle(job)
    plan = planner.plan(job)
    pruned = sparsify(job, plan).checkpoint
    if pruned is None:
        raise UsageError(
            "There is nothing to do: sparsity 0 without training leaves the model unchanged."
        )
    if out is None:
        return load_model(pruned.base, weights=pruned.weights())
    model, metadata = pruned_model(job, pruned)
    with job.run.progress.stage("export", job.file.steps) as stage:
        job.file.export(model, plan, out, metadata, quantized_by(), stage)
    return None
