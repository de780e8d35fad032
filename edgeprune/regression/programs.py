"""Programs that run a build's artifact, such as llama-server: which, and whether one got slower.

The package's own runtime, which no update of the program touches, runs the baseline's artifact
beside it: their ratio tells of the program, on whatever day. If the baseline's program is still
there under another name or with other options, both take turns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeprune.regression import verdicts
from edgeprune.regression.measurement import MeasuredProgram, Measurement
from edgeprune.regression.thresholds import TIMES, Thresholds
from edgeprune.regression.verdicts import Evidence, Finding
from edgeprune.support.errors import UsageError
from runtime_tests.programs import Program, program


@dataclass(frozen=True)
class Programs:
    """Programs of a check.

    Attributes:
        own: runs the build's artifact.
        before: another one, the baseline's, which runs the baseline's artifact.
    """

    own: Program | None = None
    before: Program | None = None


def programs(asked: Program | None, baseline: Measurement) -> Programs:
    """Find out which programs a check times: the one that is asked for, or else the baseline's."""
    before = _still_here(baseline.program)
    if asked is None or (before and before.said == asked.said):
        return Programs(before)
    return Programs(asked, before)


def _still_here(measured: MeasuredProgram | None) -> Program | None:
    try:
        return program(measured.said) if measured else None
    except UsageError:
        return None


def compare(
    before: Measurement, after: Measurement, thresholds: Thresholds, error: float
) -> Iterator[Evidence | Finding]:
    """Compare the speed and memory of a program with the baseline's.

    Args:
        before: the baseline.
        after: the build.
        thresholds: what may be lost.
        error: of this look at speeds, see `verdicts.spent`.
    """
    old, new = before.program, after.program
    if new is None:
        if old is not None:
            said = f"the baseline was timed in {old.said}, which is not here: give --program"
            yield Finding(old.name, "unclear", said)
        return
    if old is None:
        said = "the baseline was timed in no program: save it again with --program"
        yield Finding(new.name, "unclear", said)
        return
    for kind, times in TIMES.items():
        if after.program_before:
            ratios = new.of(kind) / after.program_before.of(kind)
            measure, limit = f"{kind}, {new.name} x {old.name}", times * thresholds.speed
            yield verdicts.paired_speed(measure, ratios, limit, error, after.seconds)
        elif after.beside:
            then = old.of(kind) / before.artifacts[after.own].of(kind)
            one, again = (timed.of(kind) for timed in after.beside)
            measure, limit = f"{kind}, {new.name} x own runtime", times * thresholds.drift
            now = new.of(kind) / np.sqrt(one * again)
            yield verdicts.separate_speed(measure, then, now, limit, error)
        else:
            said = "the baseline's artifact is missing or has changed, so nothing ran beside it"
            yield Finding(f"{kind}, {new.name}", "unclear", said)
    if old.peak_memory_bytes and new.peak_memory_bytes:
        yield verdicts.size(
            f"peak memory, {new.name}", old.peak_memory_bytes, new.peak_memory_bytes,
            thresholds.memory,
        )  # fmt: skip
