"""Compare two builds, as `edgeprune check` does; exit code 1 if the new one is worse.

python examples/gate.py builds/old builds/new
"""

import sys
from pathlib import Path

from edgeprune.regression.compare import Thresholds, compare
from edgeprune.regression.measurement import measure
from edgeprune.support.progress import Bars

ROUNDS = 5  # of timing, in turns; `edgeprune check` takes 15


def main(old: str, new: str) -> int:
    """Time both, compare their answers row by row, and say what changed."""
    before = measure(Path(old), ROUNDS, None, Bars())
    after = measure(Path(new), ROUNDS, before.threads, Bars(), before)
    findings = compare(before, after, Thresholds(accuracy=1.0, nats=0.01))
    for finding in findings:
        print(f"{finding.verdict:<9} {finding.measure}: {finding.sentence}")
    verdicts = {finding.verdict for finding in findings}
    print("regressed" if "regressed" in verdicts else "held" if verdicts == {"held"} else "unclear")
    return int("regressed" in verdicts)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
