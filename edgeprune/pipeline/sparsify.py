"""Pruning and the recovery after it: a recipe in their terms, their results in a manifest's."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.loading import Data
from edgeprune.models import Checkpoint
from edgeprune.models.loading import load_tokenizer
from edgeprune.pipeline.stages import prune_folder, prune_key, prune_stage, rounding_grids
from edgeprune.recipe.schema import Recipe, budget_seconds, rounds
from edgeprune.support.errors import UsageError
from edgeprune.support.extras import need
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Progress

if TYPE_CHECKING:
    from edgeprune.data.streams import Stream
    from edgeprune.engine import PrunedCheckpoint
    from edgeprune.plan.grid import Grid
    from edgeprune.recovery.settings import Reconstruction, Training

# Of what training does: what an older one has left is not gone on with.
VERSION = 8
# Sequences of each stream, fewer if its rows are used up.
_TRAINED_ON = 2048


@dataclass(frozen=True)
class Sparse:
    """What pruning and training gave.

    Attributes:
        checkpoint: the pruned weights, trained if the recipe asks for it; None if there was nothing
            to do.
        rows: ids of the rows of each stream that were used.
        key: hash of what the weights are made from, and of how training went: a time budget does
            not give the same weights twice.
        training: facts for the manifest, by the way of training; None if nothing was trained.
    """

    checkpoint: "PrunedCheckpoint | None"
    rows: dict[str, list[str]]
    key: str
    training: dict[str, Any] | None = None


def sparse_stage(
    recipe: Recipe,
    checkpoint: Checkpoint,
    data: Data,
    folder: Path,
    progress: Progress,
    dense_statistics: Path | None = None,
) -> Sparse:
    """Prune, then train the kept weights if the recipe asks for it.

    With ``recover_from`` this goes in rounds: each prunes a little more of what the round before
    has trained (gradual pruning, as in arXiv 2310.06927).
    """
    if recipe.recover and recipe.recover_rank:
        need("peft")
    _refuse_idle_processes(recipe)
    trained: dict[str, Any] = {}
    rows: dict[str, list[str]] = {"general": [], "task": []}
    before: Sparse | None = None
    *early, last = _rounds(recipe)
    for part in early:
        place = folder / "work" / f"round-{part.sparsity:.3f}"
        before = _round(part, checkpoint, before, data, place, progress)
        trained[f"{part.sparsity:g}"] = before.training
        rows = _joined(rows, before.rows)
    found = _round(last, checkpoint, before, data, folder, progress, dense_statistics)
    training = found.training
    if training is not None and trained:
        training = training | {"rounds": trained}
    _drop_stale(folder / "work", recipe.recover, {f"round-{p.sparsity:.3f}" for p in early})
    return Sparse(found.checkpoint, _joined(rows, found.rows), found.key, training)


def _refuse_idle_processes(recipe: Recipe) -> None:
    from edgeprune.support.distributed import world

    size = world()[1]
    trains = recipe.recover and recipe.recover_by != ["reconstruct"]  # the first process's alone
    if trains and recipe.recover_batch < size:
        raise UsageError(
            f"Training steps of {recipe.recover_batch} sequences for {size} processes.",
            f"Give each at least one: --set recover_batch={size}",
        )


def _drop_stale(work: Path, trains: bool, used: set[str]) -> None:
    """Remove what earlier recipes left in a build folder; unfinished work of this one is over."""
    for place in work.glob("round-*"):
        if place.name not in used:
            shutil.rmtree(place, ignore_errors=True)
    for place in work.glob("recover-*") if not trains else ():
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(work / "trained", ignore_errors=True)


def sparse_key(recipe: Recipe, checkpoint: Checkpoint, data: Data) -> str:
    """Hash of every setting and input that pruned and trained weights depend on."""
    return sha256_json([prune_key(recipe, checkpoint, data), _training_key(recipe, checkpoint)])


def _rounds(recipe: Recipe) -> list[Recipe]:
    """The recipe of each round, the last for the sparsity that was asked for."""
    *early, _ = amounts = rounds(recipe)
    if not early:
        return [recipe]
    shared = {"recover_budget": f"{budget_seconds(recipe) / len(amounts):.3f}s"}
    before_last = shared | {"rounding": "nearest", "recover_from": None}
    return [
        *(recipe.model_copy(update=before_last | {"sparsity": amount}) for amount in early),
        recipe.model_copy(update=shared),
    ]


def _round(
    recipe: Recipe,
    checkpoint: Checkpoint,
    before: Sparse | None,
    data: Data,
    folder: Path,
    progress: Progress,
    dense_statistics: Path | None = None,
) -> Sparse:
    """One pruning and its training; ``before`` is what it starts from, if not the dense model."""
    source, start = checkpoint, before.checkpoint if before else None
    if before and start:
        source = _written(recipe, start, before.key, data, folder)
        dense_statistics = None  # they would be a trained model's
    pruned, rows = prune_stage(recipe, source, data, folder, progress, dense_statistics)
    if start and pruned:
        shutil.rmtree(source.folder, ignore_errors=True)
        pruned = replace(pruned, base=checkpoint, files=[*start.files, *pruned.files])
    key = sha256_json([prune_key(recipe, source, data), _training_key(recipe, checkpoint)])
    if not (recipe.recover and pruned):
        return Sparse(pruned, rows, key)
    return _recover(recipe, checkpoint, Sparse(pruned, rows, key), data, folder, progress)


def _written(
    recipe: Recipe, before: "PrunedCheckpoint", key: str, data: Data, folder: Path
) -> Checkpoint:
    """What a round has trained, as a checkpoint that the next one prunes."""
    from edgeprune.engine import finished
    from edgeprune.recovery.student import write_checkpoint
    from edgeprune.support import distributed

    place = folder / "work" / "trained"
    found = Checkpoint(before.base.name, before.base.source, place, key)
    prunes = not finished(found, prune_folder(folder, prune_key(recipe, found, data)))
    if prunes and distributed.world()[0] == 0:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write_checkpoint(before, place)
    distributed.wait()
    return found


def _recover(
    recipe: Recipe,
    checkpoint: Checkpoint,
    pruned: Sparse,
    data: Data,
    folder: Path,
    progress: Progress,
) -> Sparse:
    """Train in every way the recipe names; finished ones are only read."""
    from edgeprune.recovery import run

    work = folder / "work" / f"recover-{pruned.key[:16]}"
    for stale in (folder / "work").glob("recover-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    trained = pruned.checkpoint
    assert trained
    rows = read_json(work / "rows.json")
    streams: dict[str, Stream] = {}
    ways = {way: _settings(recipe, way) for way in recipe.recover_by}
    if rows is None or not run.finished(trained, ways, work):
        tokenizer = load_tokenizer(checkpoint)
        streams = data.streams(tokenizer, _TRAINED_ON, recipe.length, recipe.seed)
        rows = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", rows)
    data.refuse_overlap(rows)
    grids = _training_grids(recipe, checkpoint)
    trained, facts = run.recover(trained, streams, ways, work, progress, recipe.device, grids)
    key = sha256_json([pruned.key, facts])
    return Sparse(trained, _joined(pruned.rows, rows), key, facts)


def _training_key(recipe: Recipe, checkpoint: Checkpoint) -> list[Any] | None:
    """What trained weights depend on besides the pruned ones; None if nothing is trained."""
    if not recipe.recover:
        return None
    grids = {name: asdict(grid) for name, grid in _training_grids(recipe, checkpoint).items()}
    settings = recipe.model_dump(include={n for n in Recipe.model_fields if "recover" in n})
    streams = [recipe.length, recipe.seed, recipe.answer_weight]
    return [VERSION, settings, streams, grids]


def _training_grids(recipe: Recipe, checkpoint: Checkpoint) -> "dict[str, Grid]":
    """What the last steps round to: adapters are too coarse to hit a grid."""
    return {} if recipe.recover_rank else rounding_grids(recipe, checkpoint)


def _settings(recipe: Recipe, way: str) -> "Training | Reconstruction":
    """The recipe's settings of one way to train."""
    from edgeprune.recovery.settings import Reconstruction, Training

    seconds = budget_seconds(recipe) / len(recipe.recover_by)
    if way == "reconstruct":
        return Reconstruction(seconds=seconds, steps=recipe.recover_steps)
    return Training(
        answers=way == "finetune",
        max_perplexity=recipe.recover_max_perplexity,
        seconds=seconds,
        steps=recipe.recover_steps,
        batch=recipe.recover_batch,
        learning_rate=recipe.recover_learning_rate,
        task_share=recipe.recover_task_share,
        text_share=recipe.recover_text_share,
        answer_weight=recipe.answer_weight,
        hidden_weight=recipe.recover_hidden_weight,
        selective=recipe.recover_selective,
        rank=recipe.recover_rank,
        save_memory=recipe.recover_save_memory,
        seed=recipe.seed,
    )


def _joined(one: dict[str, list[str]], other: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: list(dict.fromkeys([*one[name], *other[name]])) for name in one}
