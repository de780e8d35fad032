"""A build's folder: its lock, what its stages left, and when that can be used again."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.support.errors import MachineError, UsageError
from edgeprune.support.files import read_json, sweep, write_json
from edgeprune.support.progress import Progress, Quiet


@dataclass(frozen=True)
class Workspace:
    """Where a build, or a part of it, keeps what it makes.

    Attributes:
        folder: the build's.
        progress: told of every stage.
        first: whether this process writes; the others of a launched build only share the work.
    """

    folder: Path
    progress: Progress
    first: bool = True

    @property
    def work(self) -> Path:
        """Finished stages; safe to delete."""
        return self.folder / "work"

    def inside(self, *names: str) -> "Workspace":
        """A workspace of a part of the build, below this one's ``work``."""
        return replace(self, folder=self.work.joinpath(*names))

    def reuse(
        self,
        name: str,
        key: str,
        make: Callable[[], Any],
        still_good: Callable[[Any], bool] = lambda _value: True,
    ) -> Any:
        """What a stage gave last time if its inputs are the same, else what it gives now.

        Args:
            name: of the stage; its record is ``work/<name>.json``.
            key: hash of everything the result is made from.
            make: the stage.
            still_good: whether a result from last time still holds.
        """
        record = self.work / f"{name}.json"
        known = read_json(record)
        if known and known.get("key") == key and still_good(known["value"]):
            return known["value"]
        value = make()
        if self.first:
            write_json(record, {"key": key, "value": value})
        return value

    def keyed(self, kind: str, key: str) -> Path:
        """The folder of a resumable stage with this key; those of other keys are removed."""
        place = self.work / f"{kind}-{key[:16]}"
        for stale in self.work.glob(f"{kind}-*") if self.first else ():
            if stale != place:
                shutil.rmtree(stale, ignore_errors=True)
        return place

    def drop(self, pattern: str, keep: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Remove folders in ``work`` by a glob pattern, but for some names."""
        for place in self.work.glob(pattern) if self.first else ():
            if place.name not in keep:
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def open_workspace(
    folder: Path, progress: Progress | None, claim: Callable[[], None], outputs: tuple[str, ...]
) -> Iterator[Workspace]:
    """Take a folder for one build; nobody else works in it meanwhile.

    In a launched build the first process takes it, and the others wait until it has.

    Args:
        folder: the build folder.
        progress: told of every stage.
        claim: makes the folder, or refuses it.
        outputs: names of files whose half-written forerunners are removed.

    Raises:
        UsageError: another build is at work there, or as ``claim``.
        MachineError: the first process of a launched build has stopped.
    """
    from filelock import FileLock, Timeout

    from edgeprune.support import distributed

    if distributed.world()[0]:
        try:
            distributed.wait()  # until the folder is the first one's
        except RuntimeError:  # torch's, of a process that is gone
            raise MachineError(
                "The first process of this build has stopped; it says why."
            ) from None
        yield Workspace(folder, Quiet(), first=False)
        return
    claim()
    try:
        with FileLock(folder / "work" / "lock", timeout=0):
            for leftover in (*(f".{name}.*" for name in outputs), "work/**/.*.*"):
                sweep(folder, leftover)
            yield Workspace(folder, progress or Quiet())
    except Timeout:
        raise UsageError(f"Another build is at work in {folder}.", "Wait, or use --out.") from None
