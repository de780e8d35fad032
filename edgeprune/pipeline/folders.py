"""Build folders: their names, and the recipe each belongs to.

A folder belongs to the recipe that was first built in it, compared by the settings that affect the
artifact; ``work/recipe.json`` holds it.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from edgeprune.models.packaged import PACKAGED
from edgeprune.planning.patterns import parse
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe, defaults, flat, make
from edgeprune.support.errors import UsageError
from edgeprune.support.files import read_json, sha256_json, write_json

_FILE_ENDING = re.compile(r"\.(yaml|yml|json|jsonl|jsonl\.gz|jsonl\.xz|gguf)$")
_NO_FILE_NAME = re.compile(r"[:/+]+")  # of a type with an alphabet
_BUILDS = Path("builds")
_RECIPE = Path("work", "recipe.json")
# Settings that leave the artifact as it is: where it is made, what is measured, what is a failure.
_BESIDE_THE_ARTIFACT = re.compile(
    r"model\.device|artifact\.pack|measurement\..*|gates\.max_.*|gates\.min_.*"
)
# Settings that the readable part of a name always tells; a type is of one target alone.
_ALWAYS_TOLD = {
    "pruning.method", "pruning.fusion.mode", "pruning.pattern", "pruning.max_loss",
    "artifact.target", "artifact.type", "training.enabled",
}  # fmt: skip
_TOLD_OF_GOALS = {
    "goal.size", "goal.memory", "goal.decode", "goal.runtime", "pruning.max_loss",
    "artifact.target",
}  # fmt: skip
_NAMED = {"model": "model.name", "task": "data.task", "general": "data.general"}


def default_folder(recipe: Recipe) -> Path:
    """Return ``builds/`` and a name that describes the build.

    Settings that it does not spell out, such as a seed or the path of a task's file, go into a
    short hash at the end; without any there is no hash.
    """
    asked = recipe.pruning
    loss = asked.max_loss and f"loss{asked.max_loss.replace('%', 'pct')}"
    zeros = loss or parse(asked.pattern).label(asked.sparsity)
    task, model = short_name(recipe.data.task), short_name(recipe.model.name)
    kind = _NO_FILE_NAME.sub("-", recipe.artifact.type)
    parts = [task, model, asked.method, asked.fusion.mode, zeros, kind]
    if recipe.training.enabled:
        parts.append("recovered")
    if recipe.goal.choose:
        goal = recipe.goal
        speed = goal.decode and f"{goal.decode:g}tps"
        wanted = goal.size or goal.memory or speed or loss or "smallest"
        parts = [task, model, wanted, recipe.goal.runtime, recipe.artifact.target]
    if untold := _untold(recipe):
        parts.append(sha256_json(untold)[:8])
    return _BUILDS / "-".join(parts)


def short_name(source: str) -> str:
    """Return a task or model as part of a file name."""
    return _FILE_ENDING.sub("", Path(source).name)


def claim(folder: Path, recipe: Recipe, replace: bool = False) -> None:
    """Claim a new or empty folder, or one of this recipe's builds, for a build.

    Args:
        folder: the build folder.
        recipe: the recipe to be built in it.
        replace: whether it may hold the build of another recipe.

    Raises:
        UsageError: it holds something else; nothing was changed.
    """
    if folder.is_file():
        raise UsageError(f"--out {folder} is a file; expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "work").is_dir():
        raise UsageError(
            f"{folder} is not empty and is not a build folder of edgeprune. Nothing was changed.",
            "Choose another --out.",
        )
    if not replace and (differences := _differences(folder, recipe)):
        raise UsageError(
            f"{folder} contains the build of another recipe: {'; '.join(differences)}. Nothing "
            "was changed.",
            "Choose another --out, or add --replace (in Python replace=True) to overwrite it.",
        )
    (folder / "work").mkdir(parents=True, exist_ok=True)


def record(folder: Path, recipe: Recipe) -> None:
    """Record a build folder's recipe, before the work begins."""
    mine = _made_of(recipe)
    if read_json(folder / _RECIPE) != mine:
        write_json(folder / _RECIPE, mine)


def _differences(folder: Path, recipe: Recipe) -> list[str]:
    """List the settings in which a folder's build differs; empty if there is no build."""
    theirs = read_json(folder / _RECIPE)
    if theirs is None:
        return []
    return [
        f"{name} {_text(theirs.get(name, defaults().get(name)))} there, {_text(value)} here"
        for name, value in _made_of(recipe).items()
        if theirs.get(name, defaults().get(name)) != value
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _made_of(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that affect a recipe's artifact, with full paths of files."""
    values = flat(recipe)
    found = {n: v for n, v in values.items() if not _BESIDE_THE_ARTIFACT.fullmatch(n)}
    found |= {name: str(path) for name, path in _files(values).items()}
    if found["pruning.max_loss"]:  # the sparsity is looked for
        del found["pruning.sparsity"]
    if not recipe.goal.choose:
        found = {name: value for name, value in found.items() if not name.startswith("goal.")}
    return found


def _files(values: dict[str, Any]) -> dict[str, Path]:
    """Resolve files and folders that a model, a task and a corpus are read from."""
    paths = {name: Path(values[name]).expanduser() for name in _NAMED.values()}
    return {
        name: path.resolve()
        for name, path in paths.items()
        if _FILE_ENDING.search(path.name)
        or (name == _NAMED["model"] and values[name] not in PACKAGED and path.is_dir())
    }


def _untold(recipe: Recipe) -> dict[str, Any]:
    """Return non-default settings that the readable part of a folder's name omits."""
    values = flat(recipe)
    named = (_NAMED["task"], _NAMED["model"])
    told = {name for name in named if short_name(values[name]) == values[name]}
    usual = defaults()
    if recipe.goal.choose:  # what is left open has been completed
        asked = {name: values[name] for name in _TOLD_OF_GOALS}
        usual = flat(decided(make({"data.task": recipe.data.task, **asked})))
        told |= set(asked)
    else:
        told |= _ALWAYS_TOLD
        percent = 100 * recipe.pruning.sparsity
        if parse(recipe.pruning.pattern).fixed or abs(percent - round(percent)) < 1e-9:
            told.add("pruning.sparsity")
    made_of = _made_of(recipe)  # a copy of the files beside another builds/ has the same names
    made_of |= {name: os.path.relpath(path) for name, path in _files(values).items()}
    return {
        name: value
        for name, value in made_of.items()
        if name not in told and value != usual.get(name)
    }
