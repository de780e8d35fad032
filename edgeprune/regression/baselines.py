"""Baselines: measurements kept as files, to be committed beside the code they belong to."""

import re
from pathlib import Path

from edgeprune.regression.measurement import SCHEMA, Measurement
from edgeprune.support.errors import UsageError, unknown
from edgeprune.support.files import write_json

FOLDER = Path("baselines")
_NAME = re.compile(r"[\w.+-]+")


def place(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of a baseline of that name.

    Raises:
        UsageError: the name can't be a file's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' can't name a baseline.", "Use letters, digits, '.', '+', '-' and '_'."
        )
    return folder / f"{name}.json"


def save(measured: Measurement, path: Path) -> None:
    """Keep a measurement in a file, in place of an older one."""
    write_json(path, measured.to_json())


def names(folder: Path = FOLDER) -> list[str]:
    """Names of the baselines in a folder."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load(reference: str, folder: Path = FOLDER) -> Measurement:
    """A baseline by its name, or by its file.

    Raises:
        UsageError: there is none of that name.
        InputError: the file is damaged, not a baseline, or of another version of edgeprune.
    """
    path = folder / f"{reference}.json"
    if not path.is_file():
        path = Path(reference)
    if not path.is_file():
        hint = "edgeprune baseline save BUILD makes one."
        raise unknown("baseline", reference, names(folder) or ["(there are none)"], hint)
    hint = "Save the baseline again with this edgeprune: edgeprune baseline save BUILD."
    return Measurement.read_file(path, SCHEMA, hint)
