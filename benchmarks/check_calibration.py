"""How often `edgeprune check` raises a false alarm, and how often it sees a slowdown of 10 %.

    python benchmarks/check_calibration.py builds/medqa-smollm2-135m-alps_fast-mix-50pct-q8_0

One build is measured again and again with the default settings, and every measurement is held
against the one before it: whatever `check` finds is a false alarm. Then the pruned artifact's
speeds of the later one are cut by 10 %, as a slower kernel would cut them, and the comparison is
made again. Writes docs/check.md.
"""

import copy
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from edgeprune.files import read_json, write_json
from edgeprune.machine import sentence
from edgeprune.progress import Quiet
from edgeprune.regression.compare import Thresholds, compare
from edgeprune.regression.measurement import ROUNDS, measure

_WORK = Path("ablations/check")


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--pairs", default=40)
@click.option("--slowdown", default=0.1)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/check.md"))
def main(build: Path, pairs: int, slowdown: float, out: Path) -> None:
    seconds = []
    measured = []
    for index in range(pairs + 1):
        record = _WORK / f"{build.name}-{index:03d}.json"
        found = read_json(record)
        if found is None:
            start = time.perf_counter()
            found = measure(build, ROUNDS, None, Quiet())
            found["seconds"] = time.perf_counter() - start
            write_json(record, found)
        seconds.append(found["seconds"])
        measured.append(found)
        click.echo(f"{index} of {pairs}: {seconds[-1]:.0f} s", err=True)
    same, slower = Counter[str](), Counter[str]()
    alarms = Counter[str]()
    for before, after in itertools.pairwise(measured):
        verdicts = compare(before, after, Thresholds())
        same[_worst(verdicts)] += 1
        alarms.update(f.measure for f in verdicts if f.verdict == "regressed")
        slower[_worst(compare(before, _slowed(after, slowdown), Thresholds()))] += 1
    lines = [
        "# How `edgeprune check` errs, measured",
        "",
        f"Written by `benchmarks/check_calibration.py`: {pairs} comparisons of {build.name} with "
        f"itself, {ROUNDS} rounds each, {sum(seconds) / len(seconds):.0f} s a measurement; and the "
        f"same with the pruned artifact's speeds cut by {slowdown:.0%}.",
        "",
        sentence(),
        "",
        "| | held | could not tell | regressed |",
        "| --- | --- | --- | --- |",
        _row("the same build", same, pairs),
        _row(f"{slowdown:.0%} slower", slower, pairs),
        "",
        "False alarms: " + (", ".join(f"{n} of {m}" for m, n in alarms.items()) or "none") + ".",
        "",
    ]
    out.write_text("\n".join(lines), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _worst(findings: list[Any]) -> str:
    found = {finding.verdict for finding in findings}
    return next((v for v in ("regressed", "unclear") if v in found), "held")


def _slowed(measured: dict[str, Any], share: float) -> dict[str, Any]:
    slower = copy.deepcopy(measured)
    for kind in ("prefill", "decode"):
        artifact = slower["artifacts"]["pruned"]
        artifact[kind] = [speed * (1 - share) for speed in artifact[kind]]
    return slower


def _row(name: str, found: Counter[str], pairs: int) -> str:
    cells = (f"{found[v] / pairs:.1%}" for v in ("held", "unclear", "regressed"))
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
