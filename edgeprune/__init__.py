"""Compile a language model and a task into a sparse on-device assistant.

>>> from edgeprune import Recipe, build
>>> result = build(Recipe.of(task="medqa"))  # doctest: +SKIP
>>> result.artifact  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.manifest import Manifest
    from edgeprune.pipeline.build import Build, build
    from edgeprune.recipe.schema import Recipe

__all__ = ["Build", "Manifest", "Recipe", "build"]

_HOME = {
    "Manifest": "edgeprune.manifest",
    "Build": "edgeprune.pipeline.build",
    "build": "edgeprune.pipeline.build",
    "Recipe": "edgeprune.recipe.schema",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are used, so that `edgeprune --help` stays instant."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
