"""Baselines: measurements kept as files, to be committed beside the code they belong to."""

import re
from pathlib import Path
from typing import Any

from edgeprune.regression.measurement import SCHEMA
from edgeprune.support.errors import InputError, UsageError, unknown
from edgeprune.support.files import read_json, write_json

FOLDER = Path("baselines")
_NAME = re.compile(r"[\w.+-]+")


def save(name: str, measured: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Keep a measurement under a name, in place of an older one.

    Raises:
        UsageError: the name can't be a file's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' can't name a baseline.", "Letters, digits, '.', '-' and '_'.")
    path = folder / f"{name}.json"
    write_json(path, measured)
    return path


def names(folder: Path = FOLDER) -> list[str]:
    """Those that there are."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load(reference: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A baseline by its name, or by its file.

    Raises:
        UsageError: there is none of that name.
        InputError: the file is no baseline, or one of another edgeprune.
    """
    path = folder / f"{reference}.json"
    if not path.is_file():
        path = Path(reference)
    if not path.is_file():
        hint = "edgeprune baseline save BUILD makes one."
        raise unknown("baseline", reference, names(folder) or ["(there are none)"], hint)
    found = read_json(path)
    if not isinstance(found, dict) or "artifacts" not in found:
        raise InputError(f"{path} is no baseline.", "edgeprune baseline save BUILD makes one.")
    if found.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is a baseline in form {found.get('schema')}, expected {SCHEMA}.",
            "Save it again with this edgeprune.",
        )
    return found
