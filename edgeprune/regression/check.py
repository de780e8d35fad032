"""A check: measure a build until it is clear whether it got worse."""

from collections.abc import Iterable
from pathlib import Path

from edgeprune.regression import limits as device
from edgeprune.regression.compare import compare
from edgeprune.regression.limits import Limits
from edgeprune.regression.measure import Look, looks, measure
from edgeprune.regression.measurement import Measurement
from edgeprune.regression.programs import programs
from edgeprune.regression.thresholds import Thresholds
from edgeprune.regression.verdicts import Finding, Verdict, spent
from edgeprune.support.progress import Progress
from runtime_tests.programs import Program

SECONDS = 120.0  # of timing, if it takes that long to be clear


def check(
    build: Path,
    baseline: Measurement | None,
    limits: Limits | None,
    thresholds: Thresholds,
    seconds: float,
    progress: Progress,
    threads: int | None = None,
    program: Program | None = None,
) -> tuple[list[Finding], Measurement]:
    """Compare a build with a baseline, with a device's limits, or with both.

    Args:
        build: its folder.
        baseline: an earlier measurement.
        limits: of a device.
        thresholds: what may be lost.
        seconds: time for timing, if it takes that long to be clear.
        progress: told of every stage.
        threads: of the runtime; None: as in the baseline, or as the build was measured.
        program: that is to run the artifact as well; None: the baseline's, if it has one.

    Returns:
        A finding for every measure, and what was measured.

    Raises:
        InputError: the build is not finished, or an artifact is gone.
        MachineError: the runtime refuses an artifact.
    """
    if baseline:
        beside = programs(program, baseline)
        seen = looks(build, progress, baseline, seconds, threads, beside)
        findings, found = judged(baseline, seen, thresholds)
    else:
        findings, found = [], measure(build, progress, threads)
    return findings + (device.judge(limits, found) if limits else []), found


def judged(
    baseline: Measurement, seen: Iterable[Look], thresholds: Thresholds
) -> tuple[list[Finding], Measurement]:
    """Look until what is measured in turns is clear; returns findings, and what was measured."""
    for look in seen:
        findings = compare(baseline, look.found, thresholds, spent(look.before, look.now))
        if all(one.verdict != "unclear" for one in findings if one.in_turns):
            break
    return findings, look.found


def worst(findings: list[Finding]) -> Verdict:
    """Return the verdict of a check: the worst of its findings."""
    said = {finding.verdict for finding in findings}
    if "regressed" in said:
        return "regressed"
    return "unclear" if "unclear" in said else "held"
