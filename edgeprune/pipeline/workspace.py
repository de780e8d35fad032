"""A build's folder: its lock, and the cached results of its stages."""

import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.support import distributed
from edgeprune.support.errors import MachineError, UsageError
from edgeprune.support.files import read_json, remove_leftovers, write_json
from edgeprune.support.progress import Progress, Quiet


@dataclass(frozen=True)
class Workspace:
    """The folder of a build, or of a part of it.

    Attributes:
        folder: folder of the build.
        progress: receives progress of every stage.
        first: whether this process writes; the other processes of a launched build do not.
    """

    folder: Path
    progress: Progress
    first: bool = True

    @property
    def work(self) -> Path:
        """Path of the finished stages; safe to delete."""
        return self.folder / "work"

    def inside(self, *names: str) -> "Workspace":
        """Make a workspace for a part of the build, below this one's ``work``."""
        return replace(self, folder=self.work.joinpath(*names))

    def begin(self, record: Callable[[], None]) -> None:
        """Say whose folder this is; other processes, which have waited for that, go on from here.

        Args:
            record: writes it, in the first process.
        """
        if self.first:
            record()
            distributed.wait()

    def reuse(
        self,
        name: str,
        key: str,
        make: Callable[[], Any],
        still_good: Callable[[Any], bool] = lambda _value: True,
    ) -> Any:
        """Return a stage's cached result if its inputs are the same, else run it.

        Args:
            name: name of the stage; its record is ``work/<name>.json``.
            key: hash of everything that the result depends on.
            make: runs the stage.
            still_good: tells whether a cached result is still valid.
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
        """Return the folder of a resumable stage with this key, and remove those of other keys."""
        place = self.work / f"{kind}-{key[:16]}"
        for stale in self.work.glob(f"{kind}-*") if self.first else ():
            if stale != place:
                shutil.rmtree(stale, ignore_errors=True)
        return place

    def drop(self, pattern: str, keep: Container[str] = ()) -> None:
        """Remove folders in ``work`` by a glob pattern, except for some names."""
        for place in self.work.glob(pattern) if self.first else ():
            if place.name not in keep:
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def open_workspace(
    folder: Path, progress: Progress | None, claim: Callable[[], None], outputs: tuple[str, ...]
) -> Iterator[Workspace]:
    """Lock a folder for one build.

    In a launched build the first process takes the lock, and the others wait for it.

    Args:
        folder: the build folder.
        progress: receives progress of every stage.
        claim: creates the folder, or rejects it.
        outputs: names of files whose unfinished temporary files are removed.

    Raises:
        UsageError: another build is running there, or ``claim`` rejects the folder.
        MachineError: the first process of a launched build has stopped.
    """
    from filelock import FileLock, Timeout

    if distributed.world()[0]:
        try:
            distributed.wait()  # until the folder is the first one's
        except RuntimeError:  # torch's, of a process that is gone
            raise MachineError(
                "The first process of this build has stopped; see its error message."
            ) from None
        yield Workspace(folder, Quiet(), first=False)
        return
    claim()
    try:
        with FileLock(folder / "work" / "lock", timeout=0):
            for leftover in (*(f".{name}.*" for name in outputs), "work/**/.*.*"):
                remove_leftovers(folder, leftover)
            yield Workspace(folder, progress or Quiet())
    except Timeout:
        raise UsageError(
            f"Another build is running in {folder}.", "Wait until it ends, or choose another --out."
        ) from None
