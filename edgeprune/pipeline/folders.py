"""Where builds stand: a folder's name, and whose it is.

A folder belongs to the recipe that was built in it first, as far as the recipe makes the artifact;
``work/recipe.json`` says which.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from edgeprune.models.packaged import PACKAGED
from edgeprune.recipe.schema import UNSTRUCTURED, Recipe
from edgeprune.support.errors import UsageError
from edgeprune.support.files import read_json, sha256_json, write_json

_FILE_ENDING = re.compile(r"\.(yaml|yml|json|jsonl|jsonl\.gz|gguf)$")
_BUILDS = Path("builds")
_RECIPE = Path("work", "recipe.json")
# Settings that leave the artifact as it is: where it is made, what is measured, what is a failure.
_BESIDE_THE_ARTIFACT = {
    "device", "threads", "pack", "eval_rows", "perplexity_tokens", "prefill_tokens",
    "decode_tokens", "rounds", "max_accuracy_loss", "max_nats_increase", "min_decode_speed",
}  # fmt: skip
# Settings that the readable part of a name always tells; a type is of one target alone.
_ALWAYS_TOLD = {"method", "fusion", "pattern", "max_loss", "target", "type", "recover"}


def default_folder(recipe: Recipe) -> Path:
    """``builds/`` and a name that says what is in it.

    What it can't say in words, such as a seed or where a task's file stands, goes into a short hash
    at its end; where everything is said, there is none.
    """
    pattern = recipe.pattern.replace(":", "of")
    if recipe.max_loss:
        pattern = f"loss{recipe.max_loss.replace('%', 'pct')}"
    elif recipe.pattern == UNSTRUCTURED:
        pattern = f"{round(100 * recipe.sparsity)}pct"
    task, model = short_name(recipe.task), short_name(recipe.model)
    parts = [task, model, recipe.method, recipe.fusion, pattern, recipe.type]
    if recipe.recover:
        parts.append("recovered")
    if untold := _untold(recipe):
        parts.append(sha256_json(untold)[:8])
    return _BUILDS / "-".join(parts)


def short_name(source: str) -> str:
    """A task or model as part of a file name."""
    return _FILE_ENDING.sub("", Path(source).name)


def claim(folder: Path, recipe: Recipe, replace: bool = False) -> None:
    """Make a folder, or one that is empty or a build's of this recipe already, a build's.

    Args:
        folder: the build folder.
        recipe: what is to be built in it.
        replace: it may hold the build of another recipe.

    Raises:
        UsageError: it holds something else; nothing was touched.
    """
    if folder.is_file():
        raise UsageError(f"--out {folder} is a file, expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "work").is_dir():
        raise UsageError(
            f"{folder} is not empty and is not a build of edgeprune; nothing was touched.",
            "Choose another --out.",
        )
    if not replace and (differences := _differences(folder, recipe)):
        raise UsageError(
            f"{folder} holds the build of another recipe: {'; '.join(differences)}. Nothing was "
            "touched.",
            "Choose another --out, or add --replace (in Python replace=True) to overwrite it.",
        )
    (folder / "work").mkdir(parents=True, exist_ok=True)


def record(folder: Path, recipe: Recipe) -> None:
    """Say in a build folder whose it is, before its work begins."""
    mine = _made_of(recipe.model_dump())
    if read_json(folder / _RECIPE) != mine:
        write_json(folder / _RECIPE, mine)


def _differences(folder: Path, recipe: Recipe) -> list[str]:
    """In which settings the build in a folder is another one; none if there is no build."""
    theirs = read_json(folder / _RECIPE)
    if theirs is None:
        manifest = read_json(folder / "manifest.json")  # of a version that kept no recipe.json
        if manifest is None:
            return []
        theirs = _made_of(manifest["recipe"])
    mine = _made_of(recipe.model_dump())
    return [
        f"{name} {_text(theirs.get(name, _default(name)))} there, {_text(value)} here"
        for name, value in mine.items()
        if theirs.get(name, _default(name)) != value
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _made_of(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that make its artifact, with files by their whole paths."""
    found = {name: _plain(value) for name, value in values.items()}
    for name in _BESIDE_THE_ARTIFACT:
        found.pop(name, None)
    found |= {name: str(path) for name, path in _files(values).items()}
    if found["max_loss"]:  # the sparsity is looked for
        del found["sparsity"]
    return found


def _plain(value: Any) -> Any:
    """As JSON gives it back; the order of a map counts, as the first expression that fits does."""
    return [list(item) for item in value.items()] if isinstance(value, dict) else value


def _files(values: dict[str, Any]) -> dict[str, Path]:
    """The files and folders that a model, a task and a corpus are read from; no other names."""
    paths = {name: Path(values[name]).expanduser() for name in ("model", "task", "general")}
    return {
        name: path.resolve()
        for name, path in paths.items()
        if _FILE_ENDING.search(path.name)
        or (name == "model" and values[name] not in PACKAGED and path.is_dir())
    }


def _untold(recipe: Recipe) -> dict[str, Any]:
    """Settings away from their defaults that the readable part of a folder's name does not tell."""
    told = set(_ALWAYS_TOLD)
    values = recipe.model_dump()
    told |= {name for name in ("task", "model") if short_name(values[name]) == values[name]}
    percent = 100 * recipe.sparsity
    if recipe.pattern != UNSTRUCTURED or abs(percent - round(percent)) < 1e-9:
        told.add("sparsity")
    made_of = _made_of(values)  # a copy of the files beside another builds/ has the same names
    made_of |= {name: os.path.relpath(path) for name, path in _files(values).items()}
    return {
        name: value
        for name, value in made_of.items()
        if name not in told and value != _default(name)
    }


def _default(name: str) -> Any:
    field = Recipe.model_fields[name]
    return None if field.is_required() else _plain(field.get_default(call_default_factory=True))
