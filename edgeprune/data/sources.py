"""Sources of rows: local files, the `datasets` hub or cache, and files inside packages."""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any

from edgeprune.data.jsonl import read_jsonl
from edgeprune.data.rows import Row, make_row, share_of
from edgeprune.data.task import Source, Task
from edgeprune.models.hub import hub_reachable
from edgeprune.support.errors import InputError
from edgeprune.support.resources import data_file

DATA_VARIABLE = "EDGEPRUNE_DATA"


class _Absent(Exception):
    """This source isn't to be had here; the next one is tried."""


@dataclass(frozen=True)
class Split:
    """Rows of a task and where they came from.

    Attributes:
        origin: a readable description of the source.
        calibration: rows available for calibration.
        evaluation: rows available for evaluation.
    """

    origin: str
    calibration: list[Row]
    evaluation: list[Row]


def load_split(task: Task) -> Split:
    """Read a task's rows from the first of its sources that is available.

    Raises:
        InputError: no source is available, or the first available one is invalid.
    """
    reasons = []
    for source in task.sources:
        try:
            split = _load(task, source)
        except _Absent as absent:
            reasons.append(f"  {source.kind}: {absent}")
            continue
        for side in ("calibration", "evaluation"):
            if not getattr(split, side):
                raise InputError(f"{task.name}: {split.origin} has no rows for {side}.")
        return split
    raise InputError(
        f"No source of the task '{task.name}' is available on this machine:\n" + "\n".join(reasons),
        f"Put its files in a folder and set {DATA_VARIABLE} to that folder, connect to the "
        "network, or use your own rows: --task rows.jsonl",
    )


def _load(task: Task, source: Source) -> Split:
    reader = {"local": _local, "hub": _hub, "shipped": _shipped, "package": _package}[source.kind]

    def rows(names: list[str]) -> list[Row]:
        return [make_row(raw, task, source.fields, origin) for origin, raw in reader(source, names)]

    calibration = rows(source.calibration)
    if source.calibration == source.evaluation:
        calibration, evaluation = _divide(calibration, task, source.evaluation_share)
    else:
        evaluation = rows(source.evaluation)
    label = source.name or ", ".join(Path(name).name for name in source.calibration)
    return Split(f"{source.kind} {label}", _unique(calibration), _unique(evaluation))


def _divide(rows: list[Row], task: Task, evaluation_share: float) -> tuple[list[Row], list[Row]]:
    """Split one set by a stable hash, so that duplicates and reruns fall on the same side."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        if task.split_by not in row.fields:
            raise InputError(
                f"{task.name}: split_by names '{task.split_by}', but the rows have the fields "
                f"{', '.join(row.fields)}."
            )
        sides[share_of(str(row.fields[task.split_by])) < evaluation_share].append(row)
    return sides


def _unique(rows: Iterable[Row]) -> list[Row]:
    """Rows without repeats; where two different rows share an id, the later one gets its own."""
    found: dict[str, Row] = {}
    for row in rows:
        name, number = row.id, 1
        while name in found and found[name].fields != row.fields:
            number += 1
            name = f"{row.id}#{number}"
        found.setdefault(name, replace(row, id=name))
    return list(found.values())


_Raw = Iterator[tuple[str, dict[str, Any]]]


def _local(source: Source, names: list[str]) -> _Raw:
    for name in names:
        path = Path(name).expanduser()
        if not path.is_absolute() and not path.exists():
            folder = os.environ.get(DATA_VARIABLE)
            if not folder:
                raise _Absent(f"{name} was not found, and {DATA_VARIABLE} is not set")
            path = Path(folder) / name
            if not path.exists():
                raise _Absent(f"{path} does not exist")
        for number, raw in enumerate(read_jsonl(path), 1):
            yield f"{path.name}, row {number}", raw


def _hub(source: Source, names: list[str]) -> _Raw:
    if importlib.util.find_spec("datasets") is None:
        raise _Absent(f"{source.name} needs an extra: pip install 'edgeprune[hub]'")
    if not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = (
            "1"  # the cache still serves; retries would take half a minute
        )
    import datasets

    configurations: list[str | None] = [*source.config] or [None]
    for config in configurations:
        for name in names:
            try:
                data = datasets.load_dataset(source.name, config, split=name)
            except Exception as error:  # offline, gone, renamed: the library has no common type
                reason = str(error).strip().splitlines()
                raise _Absent(f"{source.name}: {reason[0] if reason else error!r}") from None
            for number, raw in enumerate(data, 1):
                yield f"{source.name} {name}, row {number}", dict(raw)


def _shipped(source: Source, names: list[str]) -> _Raw:
    for name in names:
        for number, raw in enumerate(read_jsonl(data_file(name)), 1):
            yield f"{name}, row {number}", raw


def _package(source: Source, names: list[str]) -> _Raw:
    try:
        found = distribution(source.name)
    except PackageNotFoundError:
        raise _Absent(f"{source.name} is not installed (pip install {source.name})") from None
    listed = found.files or []
    for name in names:
        matches = sorted(str(f) for f in listed if PurePosixPath(str(f)).match(name))
        if not matches:
            raise _Absent(f"{source.name} {found.version} does not contain {name}")
        for match in matches:
            path = Path(str(found.locate_file(match)))
            for number, raw in enumerate(read_jsonl(path), 1):
                yield f"{source.name} {match}, row {number}", raw
