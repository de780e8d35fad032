"""Read a recipe from a file, ``--set key=value`` and flags."""

from pathlib import Path
from typing import Any

import yaml

from edgeprune.recipe.schema import Recipe, defaults, make, nested
from edgeprune.support.errors import UsageError, unknown
from edgeprune.support.resources import read_yaml, shipped

_PATTERN, _SPARSITY = "pruning.pattern", "pruning.sparsity"


def resolve(file: str | None, settings: tuple[str, ...], options: dict[str, Any]) -> Recipe:
    """Join a recipe file, ``--set key=value`` and flags; later ones win.

    Args:
        file: a path, or the name of a shipped recipe; None: only the other two.
        settings: ``key=value`` strings; values are parsed as YAML.
        options: flags by the dotted names of their settings; None: not given.
    """
    values: dict[str, Any] = nested(read_yaml(_recipe_path(file))) if file else {}
    given = dict(_setting(text) for text in settings)
    given |= {name: value for name, value in options.items() if value is not None}
    usual = defaults()[_PATTERN]
    if given.get(_PATTERN, usual) != usual and _SPARSITY not in given:
        # the pattern on the command line wins over both in the file
        values.get("pruning", {}).pop("sparsity", None)
    return make(values | given)


def _setting(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UsageError(
            f"--set {text}: expected key=value.", "Example: --set measurement.eval_rows=500"
        )
    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"--set {text}: the value is not valid YAML.") from None


def _recipe_path(file: str) -> Path:
    if Path(file).suffix in (".yaml", ".yml") or Path(file).exists():
        return Path(file)
    recipes = shipped("recipes")
    if file not in recipes:
        raise unknown("recipe", file, recipes, "Or give the path of a .yaml file.")
    return recipes[file]


def load(file: str) -> Recipe:
    """Read a recipe file, or a shipped recipe by name."""
    return make(dict(read_yaml(_recipe_path(file))))
