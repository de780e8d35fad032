"""Choose the storage of every tensor that a recipe leaves open, for its goal."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeprune.manifest.manifest import ChoiceFacts
from edgeprune.pipeline import latency
from edgeprune.pipeline.export import dense_baseline
from edgeprune.pipeline.job import Job, wanted
from edgeprune.pipeline.keys import streams_key
from edgeprune.planning.budget import Candidate, Choice, Part, cheapest, choose
from edgeprune.planning.grid import FILE_BLOCK
from edgeprune.planning.tensors import TensorPlan
from edgeprune.recipe.units import byte_count
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError
from edgeprune.support.files import cache_folder, read_json, sha256_json, write_json

if TYPE_CHECKING:
    from edgeprune.engine.sensitivity.storages import Losses
    from edgeprune.planning.grid import Grid
    from edgeprune.recipe.goal import Goal

_VERSION = 3  # of what is measured
# Sequences of each stream: each embedding runs on so many, gradients on so many, blocks on so many.
_OF_EMBEDDINGS, _RUN_WHOLE, _RUN_BLOCKS = 2, 4, 5
_FRONT = 16  # points of the predicted front
_ROUNDING = 1 + 1e-9  # of sums, in other orders
# Bytes of a file's head that are not in a plain one's: names of codes, the packing's records.
_HEAD = 64_000

# By tensor and storage: the tensor as it would stand in the file.
Candidates = Mapping[str, Mapping[str, TensorPlan]]


def settle(job: Job) -> tuple[Job, ChoiceFacts | None]:
    """Choose storages for a recipe's goal, if it leaves them open.

    Args:
        job: the build.

    Returns:
        The job with a type for every tensor, and the record of the choice.

    Raises:
        UsageError: no choice meets the goal, or several processes were launched.
    """
    goal = job.recipe.goal
    if not goal.choose:
        return job, None
    if distributed.world()[1] > 1:
        raise UsageError(
            "Storages are not chosen in several processes.",
            "Run it without a launcher, or set a --type.",
        )
    rows = candidates(job)
    losses = losses_of(job, rows)
    rows = {name: of for name, of in rows.items() if name in losses}
    costs, fixed = _costs(job, rows)
    parts = _parts(rows, losses, costs)
    found = _solve(job, parts, fixed)
    facts = ChoiceFacts(
        goal=goal.text,
        runtime=goal.runtime,
        bytes=round(_bytes(job, rows, found)),
        loss=found.loss,
        losses={name: one.loss for name, one in found.picked.items()},
        front=[(one.cost + fixed, one.loss) for one in front(parts)],
        decode=1 / found.cost if goal.decode else None,
    )
    job.run.progress.note(
        f"Chosen for '{facts.goal}': {facts.bytes / 1e6:.1f} MB, predictions move by "
        f"{facts.loss:.3f} nats a token before training"
    )
    return _obeying(job, rows, found), facts


def candidates(job: Job) -> Candidates:
    """List the storages that each matrix may have; a set type of embedding or head leaves one."""
    shapes = {row.name: row.shape for row in job.file.tensors}
    asked = job.recipe.artifact
    found: dict[str, dict[str, TensorPlan]] = defaultdict(dict)
    for name in job.exporter.choices[job.recipe.goal.runtime]:
        ask = replace(wanted(job.recipe), type=name, overrides=(), embedding=name, head=name)
        for row in job.exporter.estimate(shapes, ask):
            grid = row.storage.grid
            set_by_user = {"embedding": asked.embedding_type, "head": asked.head_type}
            fits = set_by_user.get(row.role, "auto") in ("auto", name)
            # Of embeddings, whose candidates are run one by one, only scales of the plain type.
            if grid and fits and (row.block is not None or grid.block == FILE_BLOCK):
                found[row.name][name] = row
    return found


def losses_of(job: Job, rows: Candidates) -> "Losses":
    """Estimate what each candidate loses; kept for all builds of this model and these streams."""
    grids = {
        name: {storage: row.storage.grid for storage, row in of.items() if row.storage.grid}
        for name, of in rows.items()
    }
    fusion = job.recipe.pruning.fusion
    shares = {"general": 1 - fusion.task_share, "task": fusion.task_share}
    if fusion.mode in shares:
        shares = {fusion.mode: 1.0}
    spelt = {name: {s: str(grid) for s, grid in of.items()} for name, of in grids.items()}
    weighed = [job.recipe.data.answer_weight, job.pruning.sink_positions,
               job.pruning.high_perplexity_weight]  # fmt: skip
    lengths = [_OF_EMBEDDINGS, _RUN_WHOLE, _RUN_BLOCKS]
    key = sha256_json([_VERSION, streams_key(job), shares, spelt, lengths, weighed])
    found: Losses = _kept("losses", key, lambda: _measured(job, grids, shares))
    return found


def _measured(
    job: Job, grids: "Mapping[str, Mapping[str, Grid]]", shares: Mapping[str, float]
) -> "Losses":
    from edgeprune.engine.device import pick_device
    from edgeprune.engine.runner import BlockRunner
    from edgeprune.engine.sensitivity.curvature import output_curvature
    from edgeprune.engine.sensitivity.model import matrices_by_block
    from edgeprune.engine.sensitivity.storages import storage_losses
    from edgeprune.engine.sensitivity.vocabulary import vocabulary_losses
    from edgeprune.engine.token_weights import stream_weights
    from edgeprune.models.loading import load_model

    progress = job.run.progress
    streams = {name: stream for name, stream in job.streams(_RUN_BLOCKS).items() if name in shares}
    few = {name: stream.part(slice(_RUN_WHOLE)) for name, stream in streams.items()}
    stored = frozenset(job.checkpoint.weights().names())
    runner = BlockRunner(load_model(job.checkpoint), streams, pick_device(job.recipe.model.device))
    blocks = matrices_by_block(runner, stored)
    curvature = output_curvature(runner, blocks, few, progress)
    weights = stream_weights(runner, job.pruning)
    inside = {name for of_block in blocks for name in of_block}
    beside = {name: of for name, of in grids.items() if name not in inside}
    fewer = {name: stream.part(slice(_OF_EMBEDDINGS)) for name, stream in streams.items()}
    return vocabulary_losses(runner, fewer, stored, beside, shares, progress) | storage_losses(
        runner, blocks, grids, shares, weights, curvature, progress
    )


def _costs(job: Job, rows: Candidates) -> tuple[Mapping[str, Mapping[str, float]], float]:
    """Find what candidates cost towards the goal, and what all else costs."""
    if job.recipe.goal.decode:
        times = _kept(
            "times", latency.kept_under(job, rows), lambda: latency.seconds_a_token(job, rows)
        )
        return times, 0.0
    packed = job.recipe.goal.runtime == "edgeprune"
    sizes = {
        name: {storage: _size(row, packed) for storage, row in of.items()}
        for name, of in rows.items()
    }
    return sizes, _beside(job, rows)


def _size(row: TensorPlan, packed: bool) -> float:
    return row.packed_bits * row.size / 8 if packed else row.storage.bytes


def _bytes(job: Job, rows: Candidates, choice: Choice) -> float:
    """Predict the size of the file, or of weights in memory if that is the goal."""
    packed = job.recipe.goal.runtime == "edgeprune"
    chosen = sum(_size(rows[name][one.name], packed) for name, one in choice.picked.items())
    return chosen + _beside(job, rows)


def _parts(
    rows: Candidates, losses: "Losses", costs: Mapping[str, Mapping[str, float]]
) -> list[Part]:
    """Give the solver each tensor's candidates."""
    return [
        Part(name, [Candidate(s, costs[name][s], losses[name][s]) for s in of if s in losses[name]])
        for name, of in rows.items()
    ]


def _beside(job: Job, rows: Candidates) -> float:
    """Bytes of what is not chosen: small tensors, and in a file its head."""

    def weighed() -> dict[str, int]:
        plain = dense_baseline(job)
        sizes = {tensor["source"]: tensor["bytes"] for tensor in plain["tensors"]}
        small = sum(size for name, size in sizes.items() if name not in rows)
        return {"small": small, "head": plain["bytes"] - sum(sizes.values())}

    key = sha256_json([_VERSION, job.checkpoint.sha256, job.exporter.name, sorted(rows)])
    found = _kept("heads", key, weighed)
    return float(found["small"] + (0 if job.recipe.goal.memory else found["head"] + _HEAD))


def _kept(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """Return what an earlier build has measured, or measure it."""
    kept = cache_folder() / kind / f"{key[:16]}.json"
    found = read_json(kept)
    if found is None:
        found = make()
        write_json(kept, found)
    return found


def _solve(job: Job, parts: Sequence[Part], fixed: float) -> Choice:
    goal = job.recipe.goal
    if not goal.asked:
        found = cheapest(parts, goal.divergence)
        if found is None:
            raise UsageError(
                f"No storage keeps predictions within {goal.divergence:g} nats a token.",
                "Raise goal.divergence, or set a --size.",
            )
        return found
    if goal.decode:
        most = 1 / (goal.decode * (1 + goal.reserve))
    else:
        most = byte_count(goal.size or goal.memory or "") - fixed
    found = choose(parts, most)
    if found is None:
        least = sum(min(one.cost for one in part.candidates) for part in parts) + fixed
        raise UsageError(*_out_of_reach(goal, least))
    return found


def _out_of_reach(goal: "Goal", least: float) -> tuple[str, str]:
    fewest = f"with every tensor in the fewest bits that are chosen for the {goal.runtime} runtime"
    if goal.decode:
        return (
            f"--decode {goal.decode:g} is out of reach here: {fewest}, this model is predicted to "
            f"decode {1 / least:.0f} tokens/s.",
            f"Ask for less, such as --decode {0.9 / least:.0f}, or take a smaller model.",
        )
    name = "--size" if goal.size else "--memory"
    return (
        f"{name} {goal.size or goal.memory} is too small for this model: {fewest}, it takes "
        f"{least / 1e6:.1f} MB.",
        f"Allow more, such as {name} {1.1 * least / 1e6:.0f}MB.",
    )


def front(parts: Sequence[Part]) -> list[Choice]:
    """Solve for budgets between the smallest and the largest file."""
    ends = [sum(pick(c.cost for c in part.candidates) for part in parts) for pick in (min, max)]
    low, high = ends[0], min(ends[1], 2.2 * ends[0])
    budgets = [low + (high - low) * step / (_FRONT - 1) for step in range(_FRONT)]
    found = [choose(parts, budget * _ROUNDING) for budget in budgets]
    return [one for one in found if one]


def _obeying(job: Job, rows: Candidates, choice: Choice) -> Job:
    """Write the choice into the recipe: a type for most matrices, and a map for the others."""
    weight: dict[str, int] = defaultdict(int)
    settings: dict[str, object] = {}
    chosen: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, one in choice.picked.items():
        row = rows[name][one.name]
        if row.block is None:
            settings["artifact.head_type" if row.role == "head" else "artifact.embedding_type"] = (
                one.name
            )
            continue
        weight[one.name] += row.size
        before, number, after = re.split(r"(?<=\.)(\d+)(?=\.)", row.stored_as, maxsplit=1)
        chosen[one.name, before, after].append(number)
    base = max(weight, key=lambda name: weight[name])
    types = {
        f"^{re.escape(before)}({'|'.join(numbers)}){re.escape(after)}$": storage
        for (storage, before, after), numbers in chosen.items()
        if storage != base
    }
    changed = job.changed({"artifact.type": base, "artifact.type_map": types} | settings)
    return changed.in_type(base)
