"""Progress bars with remaining time on a terminal; no output elsewhere."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress


class Stage(Protocol):
    """One stage of work, in steps."""

    def advance(self, steps: int = 1) -> None:
        """Report that ``steps`` more steps are done."""

    def expect(self, total: int) -> None:
        """Correct the number of steps to ``total``."""


class Progress(Protocol):
    """The interface to which long-running functions report progress."""

    def stage(self, name: str, total: int) -> contextlib.AbstractContextManager[Stage]:
        """Begin a stage of ``total`` steps."""

    def note(self, text: str) -> None:
        """Show a note of one line."""


class _Silent:
    def advance(self, steps: int = 1) -> None:
        pass

    def expect(self, total: int) -> None:
        pass


class Quiet:
    """Reports nothing; the default of the Python API."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """See `Progress`."""
        yield _Silent()

    def note(self, text: str) -> None:
        """See `Progress`."""


class Bars:
    """Shows bars on standard error if it is a terminal; otherwise only notes."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """See `Progress`."""
        bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        with bars:
            yield _Bar(bars, name, total)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(text, markup=False)


class _Bar:
    def __init__(self, bars: RichProgress, name: str, total: int):
        self._bars = bars
        self._task = bars.add_task(name, total=total)

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)

    def expect(self, total: int) -> None:
        self._bars.update(self._task, total=total)
