"""Compile a language model and a task into a sparse on-device assistant.

>>> from edgeprune import Recipe, build
>>> result = build(Recipe.of(task="medqa"))  # doctest: +SKIP
>>> result.artifact  # doctest: +SKIP

`plan` says what becomes of every tensor, `prune` gives a pruned transformers model, `export` writes
a model in another format, `evaluate` scores an artifact.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.manifest import Manifest
    from edgeprune.pipeline.build import Build, build
    from edgeprune.pipeline.convert import export
    from edgeprune.pipeline.estimate import Estimate, plan
    from edgeprune.pipeline.evaluate import evaluate
    from edgeprune.pipeline.prune import prune
    from edgeprune.recipe.schema import Recipe

__all__ = [
    "Build", "Estimate", "Manifest", "Recipe", "build", "evaluate", "export", "plan", "prune",
]  # fmt: skip

_HOME = {
    "Build": "edgeprune.pipeline.build",
    "Estimate": "edgeprune.pipeline.estimate",
    "Manifest": "edgeprune.manifest",
    "Recipe": "edgeprune.recipe.schema",
    "build": "edgeprune.pipeline.build",
    "evaluate": "edgeprune.pipeline.evaluate",
    "export": "edgeprune.pipeline.convert",
    "plan": "edgeprune.pipeline.estimate",
    "prune": "edgeprune.pipeline.prune",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are used, so that `edgeprune --help` stays instant."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
