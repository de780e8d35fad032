"""Choose the storage of every tensor that a recipe leaves open, for its goal."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgeprune.manifest.manifest import ChoiceFacts
from edgeprune.pipeline import costs
from edgeprune.pipeline.candidates import Candidates, candidates, losses_of, ways
from edgeprune.pipeline.export import dense_baseline
from edgeprune.pipeline.job import Job
from edgeprune.planning.budget import Candidate, Choice, Part, cheapest, choose
from edgeprune.planning.evened import evened
from edgeprune.planning.patterns import UNSTRUCTURED
from edgeprune.planning.stored import Stored
from edgeprune.planning.tensors import TensorPlan
from edgeprune.recipe.units import byte_count
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError
from edgeprune.support.files import kept, sha256_json

if TYPE_CHECKING:
    from edgeprune.engine.sensitivity.storages import Losses
    from edgeprune.recipe.goal import Goal

_VERSION = 4  # of what a file's head is measured as
_T = TypeVar("_T")
_FRONT = 16  # points of the predicted front
_ROUNDING = 1 + 1e-9  # of sums, in other orders
# Bytes of a file's head that are not in a plain one's: names of codes, the packing's records.
_HEAD = 64_000


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
    rows, losses = measured(job)
    each, fixed = _costs(job, rows)
    parts = _parts(rows, _after_training(job, rows, losses), each)
    found = _solve(job, parts, fixed)
    facts = ChoiceFacts(
        goal=f"max loss {bound}" if (bound := job.recipe.pruning.max_loss) else goal.text,
        runtime=goal.runtime,
        bytes=round(_bytes(job, rows, found)),
        loss=_loss(losses, found),
        losses={name: losses[name][one.name] for name, one in found.picked.items()},
        front=[(one.cost + fixed, _loss(losses, one)) for one in front(parts)],
        decode=1 / found.cost if goal.decode else None,
        device=costs.read(job, rows).device if goal.costs else None,
    )
    job.run.progress.note(
        f"Chosen for '{facts.goal}': {facts.bytes / 1e6:.1f} MB, predictions move by "
        f"{facts.loss:.3f} nats a token before training"
    )
    return _obeying(job, rows, found), facts


def measured(job: Job) -> tuple[Candidates, "Losses"]:
    """Return the candidates of each tensor whose losses can be measured, and those losses."""
    rows = candidates(job)
    losses = losses_of(job, rows)
    return {name: of for name, of in rows.items() if name in losses}, losses


def _costs(job: Job, rows: Candidates) -> tuple[Mapping[str, Mapping[str, float]], float]:
    """Find what candidates cost towards the goal, and what all else costs."""
    if job.recipe.goal.decode:
        return costs.seconds_a_token(job, rows), 0.0
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


def _after_training(job: Job, rows: Candidates, losses: "Losses") -> "Losses":
    """Weigh losses of blocks as training leaves them, if the build trains."""
    if not job.recipe.training.of_weights:
        return losses
    first = {name: next(iter(of.values())) for name, of in rows.items()}
    of_blocks = {name: losses[name] for name, row in first.items() if row.block is not None}
    return losses | evened(of_blocks, {name: first[name].size for name in of_blocks})


def _loss(losses: "Losses", choice: Choice) -> float:
    """Sum what a choice loses before training."""
    return sum(losses[name][one.name] for name, one in choice.picked.items())


def _parts(
    rows: Candidates, losses: "Losses", costs: Mapping[str, Mapping[str, float]]
) -> list[Part]:
    """Give the solver each tensor's candidates."""
    return [
        Part(name, [Candidate(s, costs[name][s], losses[name][s]) for s in of if s in losses[name]])
        for name, of in rows.items()
    ]


def _beside(job: Job, rows: Candidates) -> float:
    """Bytes of what is not chosen: all other tensors, and in a file its head."""
    others = sum(row.storage.bytes for row in job.file.tensors if row.name not in rows)
    if job.recipe.goal.memory:
        return float(others)

    def weighed() -> int:
        plain = dense_baseline(job)
        size: int = plain["bytes"] - sum(tensor["bytes"] for tensor in plain["tensors"])
        return size

    key = sha256_json([_VERSION, job.checkpoint.sha256, job.exporter.name, sorted(rows)])
    return float(others + kept("heads", key, weighed) + _HEAD)


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
    """Write the choice into the recipe: types and zeros, of most matrices and by a map."""
    known, asked = ways(job), job.recipe.artifact
    weight: dict[str, int] = defaultdict(int)
    settings: dict[str, object] = {}
    of_blocks: dict[str, Stored] = {}
    for name, one in choice.picked.items():
        row = rows[name][one.name]
        if row.block is None:
            settings["artifact.head_type" if row.role == "head" else "artifact.embedding_type"] = (
                one.name
            )
            continue
        of_blocks[name] = known[one.name]
        weight[known[one.name].type] += row.size
    base = max(weight, key=lambda kind: weight[kind]) if weight else asked.type
    types = _grouped((rows[n][w.name].stored_as, w.type) for n, w in of_blocks.items())
    settings["artifact.type"] = base
    settings["artifact.type_map"] = asked.type_map | {
        names: kind for names, kind in types.items() if kind != base
    }
    if "zeros" not in job.recipe.goal.keep:
        settings |= _zeros(job, of_blocks, sum(rows[n][w.name].zeros for n, w in of_blocks.items()))
    return job.changed(settings).in_type(base)


def _zeros(job: Job, of_blocks: Mapping[str, Stored], zeros: int) -> dict[str, object]:
    """Write the chosen zeros of matrices as an allocation."""
    if not zeros:
        return {}
    size = sum(row.size for row in job.file.tensors if row.prunable)
    shares = _grouped((name, way.zeros) for name, way in of_blocks.items() if way.sparsity)
    return {
        "pruning.sparsity": zeros / size, "pruning.pattern": UNSTRUCTURED.name,
        "pruning.allocation.kind": "map", "pruning.allocation.map": shares,
    }  # fmt: skip


def _grouped(named: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    """Join names that differ only in the number of their block into regular expressions."""
    blocks: dict[tuple[str, str, _T], list[str]] = defaultdict(list)
    for name, value in named:
        before, number, after = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
        blocks[before, after, value].append(number)
    return {
        f"^{re.escape(before)}({'|'.join(numbers)}){re.escape(after)}$": value
        for (before, after, value), numbers in blocks.items()
    }
