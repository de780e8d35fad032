"""The recovery stage of a build: a recipe in the trainers' terms, their results in a manifest's."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from edgeprune.calibration.data import Data
from edgeprune.files import read_json, sha256_json, write_json
from edgeprune.models import Checkpoint
from edgeprune.models.hf import load_tokenizer
from edgeprune.progress import Progress
from edgeprune.recipe import Recipe, budget_seconds
from edgeprune.stages import prune_key, rounding_grids

if TYPE_CHECKING:
    from edgeprune.calibration.streams import Stream
    from edgeprune.engine import PrunedCheckpoint
    from edgeprune.quantization.grid import Grid

_VERSION = 2
# Sequences of each stream, fewer if its rows are used up.
_DISTILLED_ON = 512
_REBUILT_ON = 64


@dataclass(frozen=True)
class Recovered:
    """What training gave.

    Attributes:
        checkpoint: with the trained weights.
        rows: ids of the rows of each stream that were trained on.
        facts: for the manifest, by the way of training.
    """

    checkpoint: "PrunedCheckpoint"
    rows: dict[str, list[str]]
    facts: dict[str, Any]


def recover_stage(
    recipe: Recipe,
    checkpoint: Checkpoint,
    pruned: "PrunedCheckpoint",
    data: Data,
    folder: Path,
    progress: Progress,
) -> Recovered:
    """Train the kept weights, in every way the recipe names; finished ones are only read."""
    key = sha256_json([prune_key(recipe, checkpoint, data), recovery_key(recipe, checkpoint)])
    work = folder / "work" / f"recover-{key[:16]}"
    for stale in (folder / "work").glob("recover-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    rows = read_json(work / "rows.json")
    streams: dict[str, Stream] = {}
    if rows is None or not _finished(recipe, pruned, work):
        tokenizer = load_tokenizer(checkpoint)
        streams = data.streams(tokenizer, _DISTILLED_ON, recipe.length, recipe.seed)
        rows = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", rows)
    data.refuse_overlap(rows)
    facts: dict[str, Any] = {}
    grids = rounding_grids(recipe, checkpoint)
    for way in recipe.recover_by:
        run = _rebuild if way == "reconstruct" else _distill
        pruned, facts[way] = run(recipe, pruned, streams, work / way, progress, grids)
    return Recovered(pruned, rows, facts)


def _finished(recipe: Recipe, pruned: "PrunedCheckpoint", work: Path) -> bool:
    """Whether every way of training has left its result."""
    from edgeprune.recovery import distill, reconstruct

    ways = {"reconstruct": reconstruct.finished, "distill": distill.finished}
    return all(ways[way](pruned, work / way) for way in recipe.recover_by)


def recovery_key(recipe: Recipe, checkpoint: Checkpoint) -> list[Any] | None:
    """What trained weights depend on besides the pruned ones; None if nothing is trained."""
    grids = {name: asdict(grid) for name, grid in rounding_grids(recipe, checkpoint).items()}
    settings: list[Any] = [recipe.recover_by, recipe.recover_budget, recipe.recover_steps]
    settings += [recipe.recover_batch, recipe.recover_learning_rate]
    streams = [recipe.length, recipe.seed, recipe.fusion_lambda, recipe.answer_weight]
    return [_VERSION, settings, streams, grids] if recipe.recover else None


def _distill(
    recipe: Recipe,
    pruned: "PrunedCheckpoint",
    streams: "dict[str, Stream]",
    folder: Path,
    progress: Progress,
    grids: "dict[str, Grid]",
) -> "tuple[PrunedCheckpoint, dict[str, Any]]":
    from edgeprune.recovery import distill

    how = distill.Distillation(
        seconds=budget_seconds(recipe) / len(recipe.recover_by),
        steps=recipe.recover_steps,
        batch=recipe.recover_batch,
        learning_rate=recipe.recover_learning_rate,
        task_share=recipe.fusion_lambda,
        answer_weight=recipe.answer_weight,
        seed=recipe.seed,
    )
    found = distill.distill(pruned, streams, how, folder, progress, recipe.device, grids)
    facts = {
        "steps": found.steps,
        "planned_steps": found.planned,
        "rounded": found.rounded,
        "curve": found.curve,
    }
    return found.checkpoint, facts


def _rebuild(
    recipe: Recipe,
    pruned: "PrunedCheckpoint",
    streams: "dict[str, Stream]",
    folder: Path,
    progress: Progress,
    _grids: "dict[str, Grid]",
) -> "tuple[PrunedCheckpoint, dict[str, Any]]":
    from edgeprune.recovery import reconstruct

    how = reconstruct.Reconstruction(
        seconds=budget_seconds(recipe) / len(recipe.recover_by), steps=recipe.recover_steps
    )
    some = {name: _trained_on(stream) for name, stream in streams.items()}
    found = reconstruct.reconstruct(pruned, some, how, folder, progress, recipe.device)
    before, after = (mean(pair[side] for pair in found.errors.values()) for side in (0, 1))
    return found.checkpoint, {"before": before, "after": after, "submodules": len(found.errors)}


def _trained_on(stream: "Stream") -> "Stream":
    """The first sequences of those that distillation does not judge by."""
    from edgeprune.recovery.batches import is_held_out

    kept = ~is_held_out(len(stream.tokens)) if len(stream.tokens) > 1 else slice(None)
    return replace(
        stream,
        tokens=stream.tokens[kept][:_REBUILT_ON],
        answers=stream.answers[kept][:_REBUILT_ON],
    )
