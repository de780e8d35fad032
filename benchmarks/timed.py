"""Files timed as the product times them: fresh processes that take turns, compared pair by pair."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from edgeprune.support.progress import Bars
from runtime_tests.bench import Lengths, Setting, contender
from runtime_tests.child import start, started
from runtime_tests.paired import by_process, speed_ratio
from runtime_tests.timing import Contender, blocks

Samples = dict[str, list[list[float]]]  # by test, process by process and round by round


def way(
    path: Path,
    lengths: Lengths,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> Contender:
    """A way of opening a file.

    Args:
        path: the file.
        lengths: what is timed, with one number of threads.
        environment: of its processes.
        command: of a child that opens it in a way of its own.
    """
    (threads,) = lengths.threads
    one = contender(Setting(path.name, path, "CPU", threads), lengths)
    if command:
        return replace(one, start=partial(started, command, path, environment))
    return replace(one, start=partial(start, path, threads, "CPU", environment))


def in_turns(ways: dict[str, Contender], processes: int, rounds: int) -> dict[str, Samples]:
    """Time so many processes of each way, with so many rounds in each."""
    runs = sum(len(one.runs) for one in ways.values())
    with Bars().stage("time", processes * rounds * runs) as stage:
        *_, found = islice(blocks(ways, rounds, stage.advance), processes)
    return found.samples


def middle(samples: Samples, test: str, digits: int) -> str:
    """Mean and standard deviation of a test's processes, as text."""
    found = by_process(samples[test]).tolist()
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{statistics.mean(found):.{digits}f} ± {spread:.{digits}f}"


def times(before: Samples, after: Samples, test: str) -> str:
    """How many times as fast, with a 95 % interval over pairs of processes, as text."""
    if before is after:
        return "1"
    found = speed_ratio(before[test], after[test], 0.95)
    return f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"
