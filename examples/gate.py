"""Compare two builds, as `edgeprune check` does; exit code 1 if the new one is worse.

python examples/gate.py builds/old builds/new
"""

import sys
from pathlib import Path

from edgeprune.regression.check import check, worst
from edgeprune.regression.measure import measure
from edgeprune.regression.thresholds import Thresholds
from edgeprune.support.progress import Bars

SECONDS = 20.0  # of timing, if it takes that long; `edgeprune check` takes more


def main(old: str, new: str) -> int:
    """Time both, compare their answers row by row, and say what changed."""
    before = measure(Path(old), Bars())
    allowed = Thresholds(accuracy=1.0, nats=0.01)
    findings, _ = check(Path(new), before, None, allowed, SECONDS, Bars())
    for finding in findings:
        print(f"{finding.verdict:<9} {finding.measure}: {finding.sentence}")
    print(worst(findings))
    return int(worst(findings) == "regressed")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
