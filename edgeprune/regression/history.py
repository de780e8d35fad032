"""Checks kept in a file, and the drift over many of them that no single one can see."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from edgeprune.manifest.base import Facts
from edgeprune.regression.compare import beside
from edgeprune.regression.measurement import Measurement
from edgeprune.regression.thresholds import TIMES, Thresholds
from edgeprune.regression.verdicts import ERROR, Finding, Verdict, holm
from edgeprune.support.errors import InputError
from edgeprune.support.files import json_text, write_text

_NATS, _GENERAL = "nats per answer token", "nats of general text"
_FEWEST = 5  # checks in a row: fewer never show a trend that is significant


class Entry(Facts):
    """One check.

    Attributes:
        date: when it ended, UTC.
        commit: what was checked, in words of the one who ran it; may be empty.
        build: name of its folder.
        artifact: SHA-256 of its artifact.
        baseline: SHA-256 of the artifact that it was compared with.
        verdict: of the check.
        losses: by measure, how much worse than the baseline, as it was estimated: shares, of
            accuracy points.
    """

    date: datetime
    commit: str
    build: str
    artifact: str
    baseline: str
    verdict: Verdict
    losses: dict[str, float]


def entry(
    before: Measurement, after: Measurement, found: list[Finding], verdict: Verdict, commit: str
) -> Entry:
    """Make the entry of a check that ends now."""
    return Entry(
        date=datetime.now(UTC).replace(microsecond=0),
        commit=commit,
        build=after.build,
        artifact=after.artifacts[after.own].sha256,
        baseline=before.artifacts[after.own].sha256 if after.own in before.artifacts else "",
        verdict=verdict,
        losses={one.measure: one.loss for one in found if one.loss is not None},
    )


def read(path: Path) -> list[Entry]:
    """Read a history, oldest first; a file that is not there is an empty one.

    Raises:
        InputError: a line is not an entry; nothing is changed then.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Entry.model_validate(json.loads(line)))
        except (ValueError, ValidationError) as error:
            said = str(error).splitlines()[0]
            raise InputError(
                f"{path}, line {number} is not an entry of a history: {said}.",
                "Restore it from version control, or start another file.",
            ) from None
    return found


def write(path: Path, entries: list[Entry]) -> None:
    """Write a history, a line for each check."""
    write_text(path, "".join(json_text(one.to_json()) + "\n" for one in entries))


def drift(entries: list[Entry], thresholds: Thresholds) -> list[Finding]:
    """Look for measures that got worse in steps too small for any check.

    A loss is counted from the first check on, from baseline to baseline. It is drift if it has a
    trend (Kendall's test) and amounts to more than one check allows (Theil and Sen's slope).
    """
    allowed = {
        **{beside(kind): times * thresholds.speed for kind, times in TIMES.items()},
        _NATS: thresholds.nats, _GENERAL: thresholds.perplexity,
    }  # fmt: skip
    judged = {name: one for name, one in levels(entries).items() if len(one[0]) >= _FEWEST}
    values = holm([_trend(series) for series, _ in judged.values()])
    found = [
        _drift(measure, *judged[measure], allowed[measure], p)
        for measure, p in zip(judged, values, strict=True)
    ]
    return [one for one in found if one]


def levels(entries: list[Entry]) -> dict[str, tuple[np.ndarray, list[str]]]:
    """By measure, what has been lost since the first check, and the dates of the checks."""
    measures = [*map(beside, TIMES), _NATS, _GENERAL]
    return {measure: _levels(measure, entries) for measure in measures}


def _trend(series: np.ndarray) -> float:
    """Compute p of the test that there is no trend upwards."""
    from scipy.stats import kendalltau

    p = float(kendalltau(np.arange(len(series)), series, alternative="greater").pvalue)
    return 1.0 if np.isnan(p) else p  # all levels are the same


def _drift(
    measure: str, series: np.ndarray, dates: list[str], allowed: float, p: float
) -> Finding | None:
    from scipy.stats import theilslopes

    total = float(theilslopes(series, np.arange(len(series))).slope) * (len(series) - 1)
    if not (total > allowed and p <= ERROR):
        return None
    change = _change_point(series)
    said = (
        f"{-total:+.1%} over {len(series)} checks since {dates[0]} (p {p:.2g}), most of it from "
        f"{dates[change]} on; {allowed:.0%} is allowed"
    )
    return Finding(f"drift of {measure}", "regressed", said, total)


def _levels(measure: str, entries: list[Entry]) -> tuple[np.ndarray, list[str]]:
    """Add up losses along baselines: the level of each check that has the measure, and its date."""
    known: dict[str, list[float]] = {}
    found, dates = [], []
    for one in entries:
        if measure in one.losses:
            start = known.get(one.baseline, [0.0])
            found.append(float(np.mean(start)) + one.losses[measure])
            known.setdefault(one.artifact, []).append(found[-1])
            dates.append(f"{one.date:%Y-%m-%d}" + (f" ({one.commit})" if one.commit else ""))
    return np.array(found), dates


def _change_point(series: np.ndarray) -> int:
    """Find the first check of the later part, where two levels explain the series best."""

    def left(at: int) -> float:
        return float(series[:at].var() * at + series[at:].var() * (len(series) - at))

    return min(range(1, len(series)), key=left)
