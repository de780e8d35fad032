"""Time contenders beside each other: fresh processes, in balanced turns.

What a process gets by luck (pages, placement, neighbours in the cache) stays with it for all of its
runs, so many runs of one process say little about the next. Each block starts a fresh process of
every contender; runs are nested in processes, and processes are what is counted. All contenders
make one run before any makes the next: a shared machine changes its speed from second to second.
"""

import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import psutil

from runtime_tests.order import rounds

# A run is repeated if other virtual machines took more than this share of the processor from it.
_STOLEN = 0.02
_TRIES = 3
# Warm: two runs in a row that differ by no more than this share.
_STEADY = 0.05
_WARM_UPS = 6


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        start: starts a fresh process of it.
        runs: what is run in a round; each gives its figures by the name of the test. All contenders
            have the same number of runs.
        warm_up: seconds of a short run, to be repeated until they are steady.
        at_end: figures that a process gives once, when its runs are done.
    """

    start: Callable[[], AbstractContextManager[Any]]
    runs: Sequence[Callable[[Any], dict[str, float]]]
    warm_up: Callable[[Any], float]
    at_end: Callable[[Any], dict[str, float]] = lambda _: {}


@dataclass
class Timings:
    """What was timed.

    Attributes:
        samples: by contender and test, process by process and round by round.
        repeated: number of runs that were thrown away, since others took the processor.
        stolen: seconds that a hypervisor gave to other machines while this one wanted them.
    """

    samples: dict[Any, dict[str, list[list[float]]]] = field(default_factory=dict)
    repeated: int = 0
    stolen: float = 0.0

    def add(self, name: Hashable, runs: list[dict[str, float]]) -> None:
        """Add a process's runs."""
        kept = self.samples.setdefault(name, {})
        for test in dict.fromkeys(chain(*runs)):
            kept.setdefault(test, []).append([run[test] for run in runs if test in run])


def blocks(
    contenders: Mapping[Any, Contender],
    in_block: int,
    advance: Callable[[], None],
    found: Timings | None = None,
) -> Iterator[Timings]:
    """Time a fresh process of every contender, again and again.

    Args:
        contenders: by their names.
        in_block: number of rounds in each block.
        advance: called after each contender's run.
        found: earlier timings, to be added to.

    Yields:
        All timings so far, after each block; the caller stops when it has enough.
    """
    chance = random.Random(0)
    orders, names, found = rounds(len(contenders), chance), list(contenders), found or Timings()
    while True:
        before = _stolen()
        with ExitStack() as stack:
            children = {}
            for name in chance.sample(names, len(names)):
                children[name] = stack.enter_context(contenders[name].start())
                _warm(contenders[name], children[name])
            done: dict[Any, list[dict[str, float]]] = {name: [] for name in names}
            for run in list(range(len(contenders[names[0]].runs))) * in_block:
                for name in (names[place] for place in next(orders)):
                    figures, again = _undisturbed(contenders[name].runs[run], children[name])
                    done[name].append(figures)
                    found.repeated += again
                    advance()
            for name, child in children.items():
                found.add(name, done[name])
                found.add(name, [contenders[name].at_end(child)])
        found.stolen += _stolen() - before
        yield found


def _warm(one: Contender, child: Any) -> None:
    """Run until it is steady: first runs allocate memory and page in weights."""
    before = one.warm_up(child)
    for _ in range(_WARM_UPS - 1):
        seconds = one.warm_up(child)
        if abs(seconds - before) <= _STEADY * before:
            return
        before = seconds


def _undisturbed(
    run: Callable[[Any], dict[str, float]], child: Any
) -> tuple[dict[str, float], int]:
    """Make a run, again if the processor was taken away; returns it, and how many were not used."""
    tries = 0
    while True:
        before, start = _stolen(), time.perf_counter()
        figures = run(child)
        spent = (time.perf_counter() - start) * (psutil.cpu_count() or 1)
        tries += 1
        if tries == _TRIES or _stolen() - before <= _STOLEN * spent:
            return figures, tries - 1


def _stolen() -> float:
    """Seconds stolen since the machine was started."""
    return getattr(psutil.cpu_times(), "steal", 0.0)
