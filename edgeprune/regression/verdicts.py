"""Pure comparisons of what was measured: samples and answers in, verdicts out.

A change counts when its size passes a threshold *and* a test says that it is real (the rule of asv,
airspeed velocity). It is held only if the worse end of its interval passes the threshold too: what
was too little to tell is called unclear, with what would decide it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime_tests import paired

Verdict = Literal["held", "regressed", "unclear"]

# Of Mann-Whitney's test, two-sided; asv's choice.
SPEED_P = 0.002
# Of McNemar's exact test and of all intervals, two-sided.
CONFIDENCE = 0.95
_RESAMPLES = 2000
_FEWEST_ROWS = 5


@dataclass(frozen=True)
class Finding:
    """One measure compared.

    Attributes:
        measure: what was compared.
        verdict: ``held`` (also if it got better), ``regressed`` or ``unclear``.
        sentence: why, with figures; of what is unclear, also what would decide it.
    """

    measure: str
    verdict: Verdict
    sentence: str


def speed(
    measure: str, before: Sequence[float], after: Sequence[float], threshold: float
) -> Finding:
    """Compare samples where more is better.

    Args:
        measure: what they are of.
        before: of the baseline.
        after: of the build.
        threshold: share by which the median may fall.
    """
    from scipy.stats import mannwhitneyu

    change = float(np.median(after) / np.median(before)) - 1
    low, high = _ratio_interval(before, after)
    p = float(mannwhitneyu(before, after).pvalue)
    said = (
        f"{change:+.1%} ({low:+.1%} to {high:+.1%}, p {p:.2g}, {len(before)} and {len(after)} "
        f"samples); a drop of up to {threshold:.0%} is allowed"
    )
    reachable = 2 / math.comb(len(before) + len(after), len(after))
    if change < -threshold and p < SPEED_P:
        return Finding(measure, "regressed", said)
    if reachable >= SPEED_P:
        return Finding(
            measure, "unclear", f"{said}, but there are too few samples for p < {SPEED_P}"
        )
    if not low >= -threshold:
        return Finding(measure, "unclear", f"{said}, but {_noise(change, threshold)}")
    return Finding(measure, "held", said)


def paired_speed(
    measure: str, before: Sequence[float], after: Sequence[float], threshold: float
) -> Finding:
    """Compare samples taken in the same rounds, by Wilcoxon's signed-rank test.

    Whatever made a round slow made both slow: their ratio does not know of it.

    Args:
        measure: what they are of; more is better.
        before: of the baseline, round by round.
        after: of the build, in the same rounds.
        threshold: share by which the median ratio may fall below 1.
    """
    from scipy.stats import wilcoxon

    ratios = np.array(after) / np.array(before)
    change = float(np.median(ratios)) - 1
    low, high = _ratio_interval([1.0], ratios)
    p = float(wilcoxon(np.log(ratios)).pvalue) if np.any(ratios != 1) else 1.0
    said = (
        f"{change:+.1%} ({low:+.1%} to {high:+.1%}, p {p:.2g}, {len(ratios)} rounds); "
        f"a drop of up to {threshold:.0%} is allowed"
    )
    if change < -threshold and p < SPEED_P:
        return Finding(measure, "regressed", said)
    if 2.0 ** (1 - len(ratios)) >= SPEED_P:
        return Finding(
            measure, "unclear", f"{said}, but there are too few rounds for p < {SPEED_P}"
        )
    if not low >= -threshold:
        return Finding(measure, "unclear", f"{said}, but {_noise(change, threshold)}")
    return Finding(measure, "held", said)


def size(measure: str, before: float, after: float, threshold: float, unit: str) -> Finding:
    """Compare numbers without noise where less is better."""
    change = after / before - 1
    said = f"{after:,.4g} {unit}, was {before:,.4g} ({change:+.1%}); {threshold:+.0%} is allowed"
    return Finding(measure, "held" if change <= threshold else "regressed", said)


def accuracy(before: Sequence[bool], after: Sequence[bool], threshold: float) -> Finding:
    """Compare right answers to the same questions, by McNemar's exact test and an interval.

    Args:
        before: of the baseline.
        after: of the build.
        threshold: points (of 100) that may be lost.
    """
    from scipy.stats import binomtest

    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    change = paired.accuracy_change(before, after, CONFIDENCE)
    p = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    said = (
        f"{change.value:+.1f} points ({change.low:+.1f} to {change.high:+.1f}; {lost} answers "
        f"lost, {won} won of {len(before)}, p {p:.2g}); a loss of {threshold:g} points is allowed"
    )
    if change.value < -threshold and p < 1 - CONFIDENCE:
        return Finding("accuracy", "regressed", said)
    if change.low >= -threshold:
        return Finding("accuracy", "held", said)
    needed = paired.rows_needed(-change.value, -change.low, threshold, len(before))
    return Finding("accuracy", "unclear", f"{said}, but {_too_few(needed, 'rows')}")


def likelihood(
    measure: str,
    before: Sequence[float],
    after: Sequence[float],
    tokens: Sequence[float],
    threshold: float,
    of: str = "rows",
) -> Finding:
    """Compare nats on the same rows by a paired bootstrap over rows.

    Args:
        measure: what they are of.
        before: nats of each row, of the baseline.
        after: of the build.
        tokens: of each row.
        threshold: share by which nats per token may rise.
        of: what rows are called.
    """
    if np.array_equal(before, after):
        return Finding(measure, "held", f"identical on {len(before)} {of}")
    rise = paired.nats_rise(before, after, CONFIDENCE)
    said = (
        f"{rise.value:+.1%} ({rise.low:+.1%} to {rise.high:+.1%}) to "
        f"{sum(after) / sum(tokens):.3f} nats per token; a rise of {threshold:.0%} is allowed"
    )
    if len(before) < _FEWEST_ROWS:  # resampling so few says little of others
        return Finding(measure, "unclear", f"{said}, but {len(before)} {of} are too few to judge")
    if rise.value > threshold and rise.low > 0:
        return Finding(measure, "regressed", said)
    if rise.high <= threshold:
        return Finding(measure, "held", said)
    needed = paired.rows_needed(rise.value, rise.high, threshold, len(before))
    return Finding(measure, "unclear", f"{said}, but {_too_few(needed, of)}")


def _too_few(needed: int | None, of: str) -> str:
    """What would decide a comparison that is unclear."""
    if needed is None:
        return f"the loss may be chance: measure more {of}"
    return f"there are too few {of} to rule out a larger loss: about {needed:,} would be enough"


def _noise(change: float, threshold: float) -> str:
    """Why timings do not decide a comparison, and what would."""
    if change < -threshold:
        return "the drop may be chance: use more --rounds"
    return "the timings are too noisy to rule out a larger drop: use more --rounds"


def _ratio_interval(
    before: Sequence[float], after: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Bootstrap interval of the change of the median."""
    chance = np.random.default_rng(0)
    old, new = np.array(before), np.array(after)

    def medians(samples: np.ndarray) -> np.ndarray:
        picked = chance.integers(len(samples), size=(_RESAMPLES, len(samples)))
        return np.median(samples[picked], axis=1)

    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(medians(new) / medians(old) - 1, edges)
    return float(low), float(high)
