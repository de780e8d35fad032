"""Prune and train, in one round or in several of growing sparsity."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.models.checkpoint import Checkpoint
from edgeprune.pipeline import planner
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.keys import prune_key, training_key
from edgeprune.pipeline.streams import streams as build_streams
from edgeprune.pipeline.streams import training_streams
from edgeprune.planning.tensors import ModelPlan, block_of
from edgeprune.recipe.schema import training_rounds, training_seconds
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError
from edgeprune.support.extras import need
from edgeprune.support.files import read_json, sha256_json, write_json

if TYPE_CHECKING:
    from edgeprune.data.streams import Stream
    from edgeprune.engine import PrunedCheckpoint
    from edgeprune.recovery.settings import Reconstruction, Training

# Sequences of each stream that are trained on, fewer if its rows are used up.
_TRAINED_ON = 2048
_NO_ROWS: Mapping[str, list[str]] = {"general": [], "task": []}


@dataclass(frozen=True)
class Sparse:
    """The result of pruning and training.

    Attributes:
        checkpoint: the pruned weights, trained if the recipe asks for it; None if nothing was done.
        rows: ids of the rows of each stream that were used.
        key: hash of the weights' inputs and of the training curve, since a time budget does not
            give the same weights twice.
        training: facts for the manifest by way of training; None if nothing was trained.
    """

    checkpoint: "PrunedCheckpoint | None"
    rows: Mapping[str, list[str]]
    key: str
    training: dict[str, Any] | None = None


def sparsify(job: Job, plan: ModelPlan, dense_statistics: Path | None = None) -> Sparse:
    """Prune as planned, then train the kept weights if the recipe asks for it.

    With ``training.start_sparsity`` this takes rounds: each prunes a little more of the previous
    round's result (gradual pruning, as in arXiv 2310.06927).

    Args:
        job: the build.
        plan: plan of every tensor, for the last round.
        dense_statistics: as in `edgeprune.engine.prune`; nothing is rounded then.
    """
    _refuse(job)
    _note_what_fusion_does(job)
    trained: dict[str, Any] = {}
    rows, before = _NO_ROWS, None
    *early, last = _rounds(job)
    for part in early:
        before = _round(part, planner.plan(part), before)
        trained[f"{part.recipe.pruning.sparsity:g}"] = before.training
        rows = _joined(rows, before.rows)
    found = _round(last, plan, before, dense_statistics)
    training = found.training
    if training is not None and trained:
        training = training | {"rounds": trained}
    job.run.drop("round-*", {part.run.folder.name for part in early})
    job.run.drop("trained")
    if not job.recipe.training.enabled:
        job.run.drop("recover-*")
    return Sparse(found.checkpoint, _joined(rows, found.rows), found.key, training)


def _refuse(job: Job) -> None:
    training, size = job.recipe.training, distributed.world()[1]
    if training.enabled and training.rank:
        need("peft")
    trains = training.of_weights and training.ways != ["reconstruct"]  # the first process's alone
    if trains and training.batch < size:
        raise UsageError(
            f"training.batch is {training.batch}, fewer than the {size} processes.",
            f"Use at least one sequence per process: --set training.batch={size}",
        )


def _note_what_fusion_does(job: Job) -> None:
    asked = job.recipe.pruning
    if asked.sparsity and not job.sees_data:
        job.run.progress.note(
            f"{asked.method} uses no calibration data: fusion '{asked.fusion.mode}' and the "
            "calibration streams do not change what is pruned."
        )


def _rounds(job: Job) -> list[Job]:
    """Make the job of each round; the last has the requested sparsity."""
    *early, _ = amounts = training_rounds(job.recipe)
    if not early:
        return [job]
    shared = {"training.budget": f"{training_seconds(job.recipe) / len(amounts):.3f}s"}
    before_last = shared | {"artifact.rounding": "nearest", "training.start_sparsity": None}
    return [
        *(
            job.changed(
                before_last | {"pruning.sparsity": amount},
                run=job.run.inside(f"round-{amount:.3f}"),
            )
            for amount in early
        ),
        job.changed(shared),
    ]


def _round(
    job: Job, plan: ModelPlan, before: Sparse | None, dense_statistics: Path | None = None
) -> Sparse:
    """Prune and train once; ``before`` is the starting point, if not the dense model."""
    source, start = job, before.checkpoint if before else None
    if before and start:
        source = _trained_so_far(job, start, before.key)
        dense_statistics = None  # they would be a trained model's
    pruned, rows = _prune(source, plan, dense_statistics)
    if start and pruned:
        shutil.rmtree(source.checkpoint.folder, ignore_errors=True)
        pruned = replace(pruned, base=job.checkpoint, files=[*start.files, *pruned.files])
    found = Sparse(pruned, rows, sha256_json([prune_key(source), training_key(job)]))
    return _train(job, plan, found) if job.recipe.training.of_weights and pruned else found


def _prune(
    job: Job, plan: ModelPlan, dense_statistics: Path | None
) -> "tuple[PrunedCheckpoint | None, dict[str, list[str]]]":
    """Prune, and return the pruned checkpoint and the ids of the rows of each stream.

    A dense model that is only rounded with calibration or trained is returned as pruned with no
    zeros.
    """
    from edgeprune.engine import finished, prune

    if dense_statistics:
        plan = plan.without_grids()
    elif job.recipe.training.of_weights and not job.recipe.training.from_rounded:
        plan = plan.without_grids(of_blocks=True)  # they are rounded when they are trained
    if not (plan.sparsity or job.recipe.training.enabled or plan.grids):
        return None, dict(_NO_ROWS)
    work = job.run.keyed("prune", prune_key(job))
    used: dict[str, list[str]] = read_json(work / "rows.json") or {}
    pruned = finished(job.checkpoint, work) if used else None
    if pruned is None:
        streams = build_streams(job)
        used = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", used)
    job.data.refuse_overlap(used)
    if pruned is None:
        pruned = prune(
            job.checkpoint, streams, job.pruning, plan, work, job.run.progress,
            job.recipe.model.device, dense_statistics, job.recipe.training.from_rounded,
        )  # fmt: skip
    return pruned, used


def _trained_so_far(job: Job, before: "PrunedCheckpoint", key: str) -> Job:
    """Make the next round's job, with the trained model as its checkpoint."""
    from edgeprune.engine import finished
    from edgeprune.recovery.student import write_checkpoint

    place = job.run.work / "trained"
    found = replace(job, checkpoint=Checkpoint(before.base.name, before.base.source, place, key))
    prunes = not finished(found.checkpoint, job.run.work / f"prune-{prune_key(found)[:16]}")
    if prunes and job.run.first:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write_checkpoint(before, place)
    distributed.wait()
    return found


def _train(job: Job, plan: ModelPlan, pruned: Sparse) -> Sparse:
    """Train in every way the recipe names; finished results are only read."""
    from edgeprune.recovery import run

    assert pruned.checkpoint
    training, work = job.recipe.training, job.run.keyed("recover", pruned.key)
    ways = {way: _settings(job, way) for way in training.ways}
    rows = read_json(work / "rows.json")
    streams: dict[str, Stream] = {}
    if rows is None or not run.finished(pruned.checkpoint, ways, work):
        streams = training_streams(job, _TRAINED_ON)
        rows = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", rows)
    job.data.refuse_overlap(rows)
    grids = {} if training.rank else plan.grids  # adapters are too coarse to hit a grid
    if not training.embedding:
        grids = {name: grid for name, grid in grids.items() if block_of(name) is not None}
    trained, facts = run.recover(
        pruned.checkpoint,
        streams,
        ways,
        work,
        job.run.progress,
        job.recipe.model.device,
        grids,
    )
    return Sparse(trained, _joined(pruned.rows, rows), sha256_json([pruned.key, facts]), facts)


def _settings(job: Job, way: str) -> "Training | Reconstruction":
    """Return the settings of one way of training."""
    from edgeprune.recovery.settings import Reconstruction, Training

    asked = job.recipe.training
    seconds = training_seconds(job.recipe) / len(asked.ways)
    if way == "reconstruct":
        return Reconstruction(seconds=seconds, steps=asked.steps)
    return Training(
        answers=way == "finetune",
        max_perplexity=asked.max_perplexity,
        seconds=seconds,
        steps=asked.steps,
        batch=asked.batch,
        learning_rate=asked.learning_rate,
        task_share=asked.task_share,
        chat_share=job.recipe.data.chat_share,
        text_share=asked.text_share,
        answer_weight=job.recipe.data.answer_weight,
        hidden_weight=asked.hidden_weight,
        grid_from=asked.grid_from,
        learn_scales=asked.learn_scales,
        selective=asked.selective,
        rank=asked.rank,
        save_memory=asked.save_memory,
        seed=job.recipe.data.seed,
    )


def _joined(one: Mapping[str, list[str]], other: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: list(dict.fromkeys([*one[name], *other[name]])) for name in one}
