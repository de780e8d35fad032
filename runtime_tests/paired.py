"""Paired differences of two models on the same rows, or in processes side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 2000

Processes = Sequence[Sequence[float]]  # of each process the speeds of its runs


@dataclass(frozen=True)
class Change:
    """A change with its two-sided interval at the requested confidence."""

    value: float
    low: float
    high: float


def one_sided(confidence: float) -> float:
    """Return the confidence of a two-sided interval whose ends each have ``confidence``."""
    return 2 * confidence - 1


def accuracy_change(before: Sequence[bool], after: Sequence[bool], confidence: float) -> Change:
    """Compute the change in accuracy on the same questions, in percentage points.

    By Bonett and Price's adjusted Wald interval (J. Educ. Behav. Stat. 37, 2012), which counts one
    more answer lost and one more won: resampling rows on which nothing changed would be sure that
    nothing ever does, however few they are.
    """
    from scipy.stats import norm

    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    rows = len(before)
    p, q = (lost + 1) / (rows + 2), (won + 1) / (rows + 2)
    reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((p + q - (q - p) ** 2) / (rows + 2))
    value = 100 * (won - lost) / rows
    low, high = 100 * max(q - p - reach, -1), 100 * min(q - p + reach, 1)
    return Change(value, min(low, value), max(high, value))


def nats_rise(before: Sequence[float], after: Sequence[float], confidence: float) -> Change:
    """Compute the relative rise in nats, summed over the same rows; paired bootstrap over rows."""
    old, new = np.array(before, float), np.array(after, float)
    return bootstrap(lambda rows: new[rows].sum(-1) / old[rows].sum(-1) - 1, len(old), confidence)


def share(right: Sequence[bool]) -> dict[str, float]:
    """Compute a share of rows with a Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(sum(right), len(right)).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "value": sum(right) / len(right),
        "low": float(interval.low),
        "high": float(interval.high),
        "correct": sum(right),
        "rows": len(right),
    }


def by_process(processes: Processes) -> np.ndarray:
    """Return each process's speed, the geometric mean of its runs, (processes,).

    Of processes that took turns, all have the same share of slow moments in it.
    """
    return np.array([np.exp(np.log(runs).mean()) for runs in processes])


def speed_ratio(before: Processes, after: Processes, confidence: float) -> Change:
    """Compute the ratio of two speeds whose processes ran side by side, pair by pair.

    The mean of the pairs' log ratios, with Student's interval: what slows one moment slows both of
    a pair, and a process's luck counts once, however many runs it made.

    Raises:
        ValueError: there is only one pair, which has no interval.
    """
    from scipy.stats import ttest_1samp

    logs = np.log(by_process(after) / by_process(before))
    if len(logs) < 2:
        raise ValueError("an interval needs two processes or more")
    ends = ttest_1samp(logs, 0.0).confidence_interval(confidence)
    return Change(*(float(np.exp(one)) for one in (logs.mean(), ends.low, ends.high)))


def rows_needed(value: float, worse: float, allowed: float, rows: int) -> int | None:
    """Estimate how many rows would bring the worse end of an interval within the limit.

    Intervals narrow with the square root of the number of rows, if further rows are similar.

    Args:
        value: measured loss.
        worse: larger end of its interval.
        allowed: largest loss allowed.
        rows: number of rows measured.

    Returns:
        The number of rows; None if the loss itself exceeds the limit.
    """
    if not value < allowed:
        return None
    needed = max(rows * ((worse - value) / (allowed - value)) ** 2, rows + 1)
    step = 10 ** max(math.floor(math.log10(needed)) - 1, 0)  # two digits: it is a rough guess
    return math.ceil(needed / step) * step


def bootstrap(statistic: Callable[[Any], Any], count: int, confidence: float) -> Change:
    """Compute a percentile interval over resampled rows.

    Args:
        statistic: maps indices of rows to a value, over their last axis.
        count: number of rows.
        confidence: confidence of the two-sided interval.
    """
    from scipy.stats import bootstrap

    index = np.arange(count)
    value = float(statistic(index))
    if count < 2:
        return Change(value, value, value)
    found = bootstrap(
        (index,),
        lambda picked, axis=-1: statistic(picked),  # scipy's calling convention
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Change(value, float(found.low), float(found.high))
