"""All checks of a history in one plot."""

from collections import Counter
from collections.abc import Iterator

from edgeprune.manifest.base import Interval
from edgeprune.regression import history
from edgeprune.regression.history import Entry
from edgeprune.regression.thresholds import Thresholds
from edgeprune.report import plots
from edgeprune.report.plots import Figure

_LABELS = 6  # of dates that find room below a panel


def figures(entries: list[Entry]) -> Iterator[Figure]:
    """Plot what has been lost since the first check, if there has been more than one."""
    series = {
        measure: (levels, dates)
        for measure, (levels, dates) in history.levels(entries).items()
        if len(levels) > 1
    }
    if not series:
        return
    longest = max((dates for _, dates in series.values()), key=len)
    step = -(-len(longest) // _LABELS)
    labels = [date[5:10] if place % step == 0 else "" for place, date in enumerate(longest)]
    lines = {
        f"{measure}, % lost": [Interval.exactly(100 * float(level)) for level in levels]
        for measure, (levels, _) in series.items()
        if len(levels) == len(longest)
    }
    counts = Counter(one.verdict for one in entries)
    said = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    drifted = [
        f"drift: {one.measure.removeprefix('drift of ')} {one.sentence}"
        for one in history.drift(entries, Thresholds())
    ]
    yield Figure(
        f"{len(entries)} checks",
        plots.history(labels, lines),
        "; ".join([f"from {longest[0]} to {longest[-1]}: {said}", *(drifted or ["no drift"])]),
    )
