"""A front: chosen builds of several sizes, beside dense types that anyone can make."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import exporters
from edgeprune.pipeline import choose
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe
from edgeprune.support.progress import Progress

# From the smallest choice to what is beyond any dense file of four bits.
_LARGEST = 1.6


def recipes(
    recipe: Recipe, sizes: tuple[str, ...], count: int, progress: Progress
) -> dict[str, Recipe]:
    """Make the recipes of a front, all trained alike.

    Args:
        recipe: what they have in common.
        sizes: sizes of the chosen builds; empty: so many, from the smallest on.
        count: number of chosen builds if no sizes are given.
        progress: receives progress of what is measured to find the sizes.

    Returns:
        By name: chosen builds by their size, and dense ones by type, with the embedding by the
        target's rules and in the same type.
    """
    base = decided(recipe)
    asked = sizes or _sizes(base, count, progress)
    found = {size: base.changed({"goal.size": size, "goal.choose": True}) for size in asked}
    for kind in (one.type for one in exporters.get(base.artifact.target).choices["stock"]):
        for embedding in ("auto", kind):
            changes: dict[str, Any] = {
                "goal.choose": False, "goal.size": None, "pruning.sparsity": 0.0,
                "artifact.type": kind, "artifact.embedding_type": embedding, "artifact.pack": False,
            }  # fmt: skip
            name = f"dense-{kind}" + ("" if embedding == "auto" else "-embedding-too")
            found[name] = base.changed(changes)
    return found


def _sizes(recipe: Recipe, count: int, progress: Progress) -> list[str]:
    """Space sizes evenly, from the smallest that can be chosen."""
    with TemporaryDirectory() as folder:
        _, facts = choose.settle(open_job(recipe, Workspace(Path(folder), progress)))
    assert facts
    least = min(size for size, _ in facts.front) / 1e6
    steps = [1.02 + (_LARGEST - 1.02) * step / max(1, count - 1) for step in range(count)]
    return [f"{least * step:.1f}MB" for step in steps]
