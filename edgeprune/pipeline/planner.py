"""Plan every tensor from a recipe, a model and its sensitivities."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING

from edgeprune.pipeline.job import Job
from edgeprune.planning.allocation import ALLOCATIONS, Request, Zeros
from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import Pattern, parse
from edgeprune.planning.tensors import ModelPlan, Role, TensorPlan, table
from edgeprune.recipe.checks import fixed_sparsity
from edgeprune.recipe.schema import Recipe
from edgeprune.support.errors import UsageError
from edgeprune.support.files import sha256_json

if TYPE_CHECKING:
    from edgeprune.engine.sensitivity.model import DenseModel

# Of what the allocations measure.
_VERSION = 1
# The highest code of a grid with 8 bits.
_EIGHT_BITS = 127


def plan(job: Job) -> ModelPlan:
    """Make the plan of a build; allocations that measure run the dense model.

    Raises:
        UsageError: the recipe asks for what this model or target does not support.
    """
    stored = grids(job)
    rows = [
        replace(row, storage=replace(row.storage, grid=stored.get(row.name)))
        for row in job.file.tensors
    ]
    asked = job.recipe.pruning
    if not asked.sparsity:
        return table(rows)
    if not (ALLOCATIONS[asked.allocation.kind].measures and job.pattern.fixed is None):
        return by_rule(job.recipe, rows)

    @cache
    def dense() -> "DenseModel":
        from edgeprune.engine.sensitivity.model import DenseModel
        from edgeprune.pipeline.streams import streams

        return DenseModel(
            job.checkpoint,
            streams(job),
            job.pruning,
            job.run.progress,
            job.recipe.model.device,
        )

    def measure() -> Zeros:
        return _allocate(job.recipe, dense().sizes, dense().blocks, dense)

    zeros = job.run.reuse("allocation", _allocation_key(job), measure)
    return table(rows).with_zeros(zeros | _head(job.recipe, rows), job.pattern, asked.sparsity)


def by_rule(recipe: Recipe, rows: list[TensorPlan]) -> ModelPlan:
    """Make a plan without measuring; uniform zeros replace measured allocations.

    Args:
        recipe: the recipe.
        rows: tensors as they are stored.
    """
    asked = recipe.pruning
    pattern, sizes, blocks = parse(asked.pattern), {}, dict[int, list[str]]()
    for row in rows:
        if row.prunable and row.block is not None:
            sizes[row.name] = row.size
            blocks.setdefault(row.block, []).append(row.name)
    ordered = [blocks[index] for index in sorted(blocks)]
    zeros = _allocate(recipe, sizes, ordered, None) if asked.sparsity and sizes else {}
    own = _own_patterns(recipe, sizes)
    zeros |= {name: round((one.fixed or 0) * sizes[name]) for name, one in own.items()}
    return table(rows).with_zeros(zeros | _head(recipe, rows), pattern, asked.sparsity, own)


def grids(job: Job) -> Mapping[str, Grid]:
    """Choose grids for calibrated rounding; empty: each weight is rounded to nearest.

    Calibrated rounding is worth its time below 8 bits, where it is the default if anything else is
    done to the weights, and on every alphabet. It needs a method that uses data.

    Raises:
        UsageError: it is requested but not available.
    """
    rounding, sparsity = job.recipe.artifact.rounding, job.recipe.pruning.sparsity
    if rounding == "gptq" and not job.sees_data:
        method = job.recipe.pruning.method
        raise UsageError(
            f"artifact.rounding 'gptq' needs calibration data, but the method {method} uses "
            "none. Choose another --method."
        )
    if not job.sees_data or rounding == "nearest":
        return {}
    rows = [row for row in job.file.tensors if row.storage.grid]
    changed = sparsity or job.recipe.training.enabled
    chosen = {
        row.name: grid
        for row in rows
        if (grid := row.storage.grid)
        and (
            rounding == "gptq"
            or (changed and grid.high < _EIGHT_BITS)
            or row.storage.alphabet is not None
        )
    }
    if rounding == "gptq" and not chosen:
        raise UsageError(
            f"artifact.rounding 'gptq' does not support the type '{job.recipe.artifact.type}'.",
            "It supports q8_0, q5_0, q4_0, mixes of these, int8 and int4.",
        )
    return chosen


def _allocate(
    recipe: Recipe,
    sizes: dict[str, int],
    blocks: list[list[str]],
    sensitivity: "Callable[[], DenseModel] | None",
) -> Zeros:
    asked = recipe.pruning
    kind = asked.allocation.kind
    if sensitivity is None and (ALLOCATIONS[kind].measures or parse(asked.pattern).fixed):
        kind = "uniform"
    shares = {
        names: fixed_sparsity(share) or 0.0 if isinstance(share, str) else share
        for names, share in asked.allocation.map.items()
    }
    request = Request(
        sizes, blocks, asked.sparsity, asked.allocation.spread, shares, sensitivity or _unmeasured
    )
    return ALLOCATIONS[kind].zeros(request)


def _own_patterns(recipe: Recipe, names: Iterable[str]) -> dict[str, Pattern]:
    """Find the matrices to which the allocation's map gives a pattern; the first match counts."""
    found = {}
    for name in names:
        matches = (z for text, z in recipe.pruning.allocation.map.items() if re.search(text, name))
        if isinstance(own := next(matches, None), str):
            found[name] = parse(own)
    return found


def _unmeasured() -> "DenseModel":
    raise AssertionError("an allocation by rule asked for the model")


def _head(recipe: Recipe, rows: list[TensorPlan]) -> Zeros:
    """Compute zeros of the output head, which a tied model stores as its embedding."""
    if not recipe.pruning.head:
        return {}
    heads = {row.role: row for row in rows}
    row = heads.get(Role.HEAD) or heads[Role.EMBEDDING]
    return {row.name: round(recipe.pruning.sparsity * row.size)}


def _allocation_key(job: Job) -> str:
    from edgeprune.pipeline.keys import streams_key

    asked = job.recipe.pruning
    return sha256_json(
        [_VERSION, streams_key(job), asdict(job.pruning), asked.allocation.model_dump(),
         asked.sparsity, asked.pattern]
    )  # fmt: skip
