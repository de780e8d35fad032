"""Pure comparisons of what was measured: samples and answers in, verdicts out.

A change counts when its size passes a threshold *and* a test says that it is real (the rule of asv,
airspeed velocity). It is held only if the worse end of its interval passes the threshold too: what
was too little to tell is called unclear, with what would decide it.

Every test and every end of an interval may err once in twenty checks, and not more often because a
check has many lines (Holm's method) or because it looked before all samples were in: looks share
out the error (Lan and DeMets, Biometrika 70, 1983).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from runtime_tests import paired

Verdict = Literal["held", "regressed", "unclear"]
Speeds = Sequence[float] | np.ndarray

# Of false alarms, by all lines and looks of a check; of a line that is called held and is not.
ERROR = 0.05
_FEWEST_ROWS = 5
_FEWEST_PROCESSES = 3


@dataclass(frozen=True)
class Finding:
    """One measure compared.

    Attributes:
        measure: what was compared.
        verdict: ``held`` (also if it got better), ``regressed`` or ``unclear``.
        sentence: why, with figures; of what is unclear, also what would decide it.
        loss: how much it got worse, a share or points of accuracy; None if nothing was compared.
        in_turns: whether it was measured in turns with the baseline's artifact, so that more turns
            make it clearer.
    """

    measure: str
    verdict: Verdict
    sentence: str
    loss: float | None = None
    in_turns: bool = False


@dataclass(frozen=True)
class Evidence:
    """What samples say of one measure, before all measures are judged together.

    Attributes:
        measure: what was compared.
        loss: how much it got worse; negative if it got better.
        worst: worse end of the loss's interval.
        allowed: the loss that is allowed.
        p: of the test that nothing got worse, one-sided.
        said: the figures, in words.
        lacking: what would decide it if it is unclear.
        in_turns: as `Finding.in_turns`.
    """

    measure: str
    loss: float
    worst: float
    allowed: float
    p: float
    said: str
    lacking: str
    in_turns: bool = False


def spent(before: float, now: float) -> float:
    """Compute the error that a look at a part of the samples may make.

    A third power of the share that is in: early looks, which see little, decide only what is plain.
    The errors of all looks add up to `ERROR` when all samples are in.

    Args:
        before: share of the samples, or of the time for them, at the look before; 0 if none.
        now: share at this look.
    """
    return ERROR * (now**3 - before**3)


def judge(lines: Sequence[Evidence | Finding]) -> list[Finding]:
    """Give verdicts on the lines of a check, in their order; those that have one keep it."""
    adjusted = iter(holm([one.p for one in lines if isinstance(one, Evidence)]))
    return [one if isinstance(one, Finding) else _finding(one, next(adjusted)) for one in lines]


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm, Scand. J. Statist. 6, 1979)."""
    adjusted, worst = list(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = worst
    return adjusted


def _finding(one: Evidence, p: float) -> Finding:
    verdict: Verdict = "unclear"
    if one.loss > one.allowed and p <= ERROR:
        verdict = "regressed"
    elif one.worst <= one.allowed:
        verdict = "held"
    said = f"{one.said}, but {one.lacking}" if verdict == "unclear" else one.said
    return Finding(one.measure, verdict, said, one.loss, one.in_turns)


def paired_speed(
    measure: str, ratios: Speeds, threshold: float, error: float = ERROR, seconds: float = 0.0
) -> Evidence:
    """Judge speeds of processes that ran beside the baseline's, by Student's t of log ratios.

    Whatever made a moment slow made both slow: their ratio does not know of it.

    Args:
        measure: what they are of; more is better.
        ratios: of the build's speed to the baseline's, one for each pair of processes.
        threshold: share by which the mean ratio may fall below 1.
        error: of this look, see `spent`.
        seconds: that it took to time them, from which follows how long more would take.
    """
    from scipy.stats import ttest_1samp

    logs = np.log(ratios)
    test = partial(ttest_1samp, logs, 0.0)
    of = f"{len(logs)} pairs of processes"
    found = _speed(measure, logs.mean(), test, len(logs), threshold, error, of, seconds)
    return replace(found, in_turns=True)


def same_file(measure: str, ratios: Speeds, threshold: float) -> Finding:
    """Say how far processes of one file differ here and now, which is what nobody can tell.

    Args:
        measure: what the speeds are of.
        ratios: of two processes of the file that ran beside each other.
        threshold: change that is to be told.
    """
    found = paired_speed(measure, ratios, threshold)
    other = paired_speed(measure, 1 / np.array(ratios), threshold)
    said = f"the baseline's artifact beside itself: {found.said.partition(';')[0]}"
    if max(found.loss, other.loss) > threshold and min(found.p, other.p) < ERROR / 2:
        return Finding(measure, "unclear", f"{said}; this machine is too uneven to tell")
    return Finding(measure, "held", said)


def separate_speed(
    measure: str,
    before: Speeds,
    after: Speeds,
    threshold: float,
    error: float = ERROR,
) -> Evidence:
    """Judge speeds of processes that ran at different times, by Welch's t of their logarithms.

    Args:
        measure: what they are of; more is better.
        before: of the baseline's processes.
        after: of the build's.
        threshold: share by which the mean may fall.
        error: of this look, see `spent`.
    """
    from scipy.stats import ttest_ind

    old, new = np.log(before), np.log(after)
    test = partial(ttest_ind, new, old, equal_var=False)
    count, of = min(len(old), len(new)), f"{len(old)} and {len(new)} processes"
    return _speed(measure, new.mean() - old.mean(), test, count, threshold, error, of)


def _speed(
    measure: str,
    log_change: float,
    test: Callable[..., Any],
    count: int,
    threshold: float,
    error: float,
    of: str,
    seconds: float = 0.0,
) -> Evidence:
    change, allowed = np.expm1(log_change), f"a drop of up to {threshold:.0%} is allowed"
    if count < _FEWEST_PROCESSES:
        said = f"{change:+.1%} ({of}); {allowed}"
        return Evidence(measure, -change, np.inf, threshold, 1.0, said, "they are too few to judge")
    ends = test().confidence_interval(1 - 2 * error)
    low, high = np.expm1(ends.low), np.expm1(ends.high)
    p = test(alternative="less").pvalue * ERROR / error
    needed = paired.rows_needed(-change, -low, threshold, count)
    return Evidence(
        measure, -change, -low, threshold, float(np.nan_to_num(min(p, 1.0), nan=1.0)),
        f"{change:+.1%} ({low:+.1%} to {high:+.1%}, {of}); {allowed}",
        _too_few(needed, "processes", seconds / count),
    )  # fmt: skip


def size(measure: str, before: int, after: int, threshold: float) -> Finding:
    """Compare bytes, which have no noise that a test could tell."""
    change, old, new = after / before - 1, before / 1e6, after / 1e6
    said = f"{new:,.1f} MB, was {old:,.1f} ({change:+.1%}); {threshold:+.0%} is allowed"
    return Finding(measure, "held" if change <= threshold else "regressed", said)


def accuracy(before: Sequence[bool], after: Sequence[bool], threshold: float) -> Evidence:
    """Compare right answers to the same questions, by McNemar's exact test and an interval.

    Args:
        before: of the baseline.
        after: of the build.
        threshold: points (of 100) that may be lost.
    """
    from scipy.stats import binomtest

    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    change = paired.accuracy_change(before, after, paired.one_sided(1 - ERROR))
    p = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    return Evidence(
        "accuracy", -change.value, -change.low, threshold, float(p),
        f"{change.value:+.1f} points ({change.low:+.1f} to {change.high:+.1f}; {lost} answers "
        f"lost, {won} won of {len(before)}); a loss of {threshold:g} points is allowed",
        _too_few(paired.rows_needed(-change.value, -change.low, threshold, len(before)), "rows"),
    )  # fmt: skip


def likelihood(
    measure: str,
    before: Sequence[float],
    after: Sequence[float],
    tokens: Sequence[float],
    threshold: float,
    of: str = "rows",
) -> Evidence:
    """Compare nats on the same rows by Student's paired t, and a paired bootstrap for the interval.

    Args:
        measure: what they are of.
        before: nats of each row, of the baseline.
        after: of the build.
        tokens: of each row.
        threshold: share by which nats per token may rise.
        of: what rows are called.
    """
    from scipy.stats import ttest_rel

    rise = paired.nats_rise(before, after, paired.one_sided(1 - ERROR))
    p, worst = float(ttest_rel(after, before, alternative="greater").pvalue), rise.high
    lacking = _too_few(paired.rows_needed(rise.value, worst, threshold, len(before)), of)
    if len(before) < _FEWEST_ROWS:  # resampling so few says little of others
        p, worst, lacking = 1.0, np.inf, f"{len(before)} {of} are too few to judge"
    return Evidence(
        measure, rise.value, worst, threshold, p,
        f"{rise.value:+.1%} ({rise.low:+.1%} to {rise.high:+.1%}) to "
        f"{sum(after) / sum(tokens):.3f} nats per token; a rise of {threshold:.0%} is allowed",
        lacking,
    )  # fmt: skip


def _too_few(needed: int | None, of: str, seconds_each: float = 0.0) -> str:
    """Say what would decide a comparison that is unclear."""
    if needed is None:
        return f"the loss may be chance: measure more {of}"
    minutes = math.ceil(needed * seconds_each / 60)
    time = f" (--time {minutes}m)" if minutes else ""
    enough = f"about {needed:,}{time} would be enough"
    return f"there are too few {of} to rule out a larger loss: {enough}"
