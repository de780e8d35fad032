"""How often `edgeprune check` raises a false alarm, and what it catches.

Writes docs/measured/check.md.

    python benchmarks/check_calibration.py --task arc_easy

One build is measured again and again with the default settings, each time beside the measurement
before it, as `check` does: whatever it finds is a false alarm. The same comparisons are made
again with the build's speeds cut by 10 %, as an artifact that runs slower would show. Then real
changes are made, one at a time: the same recipe built anew, edgeprune's kernels turned off, or
slower ones chosen, one thread less, a recipe with more zeros.
"""

import itertools
import os
import time
from collections import Counter
from pathlib import Path
from statistics import mean

import click

from edgeprune import Recipe, build
from edgeprune.cli.check import worst
from edgeprune.regression.compare import Thresholds, compare
from edgeprune.regression.measurement import ROUNDS, SCHEMA, Measurement, measure
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars, Quiet

_WORK = Path("ablations/check")
_PROSE = (
    "Written by `benchmarks/check_calibration.py`: {pairs} comparisons of a build with itself, "
    "each measurement beside the one before it, and the same with the pruned artifact's speeds cut "
    "by {slowdown:.0%}. Default settings: {rounds} rounds, {seconds:.0f} s a measurement. The "
    "machine is a shared one. [Why the rule is what it is](check-rule.md)."
)


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--pairs", default=40)
@click.option("--slowdown", default=0.1)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/check.md"))
def main(task: str, pairs: int, slowdown: float, out: Path) -> None:
    good = _built("good", task, 0.5)
    first, spent = _measured("same-000", good)
    measured, seconds = [first], [spent]
    for index in range(1, pairs + 1):
        following, spent = _measured(f"same-{index:03d}", good, before=measured[-1])
        measured.append(following)
        seconds.append(spent)
    same, slower, alarms = Counter[str](), Counter[str](), Counter[str]()
    for before, after in itertools.pairwise(measured):
        found = compare(before, after, Thresholds())
        same[worst(found)] += 1
        alarms.update(f.measure for f in found if f.verdict == "regressed")
        slower[worst(compare(before, _slowed(after, slowdown), Thresholds()))] += 1
    lines = [
        "# How `edgeprune check` errs, measured",
        "",
        _PROSE.format(pairs=pairs, slowdown=slowdown, rounds=ROUNDS, seconds=mean(seconds)),
        "",
        sentence(),
        "",
        "| | held | could not tell | regressed |",
        "| --- | --- | --- | --- |",
        _shares("the same build", same, pairs),
        _shares(f"an artifact {slowdown:.0%} slower", slower, pairs),
        "",
        "False alarms: " + (", ".join(f"{n} of {m}" for m, n in alarms.items()) or "none") + ".",
        "",
        "| a real change | verdict | because |",
        "| --- | --- | --- |",
    ]
    for name, change in _changes(task, good, measured[0]).items():
        found = compare(measured[0], change, Thresholds())
        reasons = [f"{f.measure} {f.sentence}" for f in found if f.verdict != "held"]
        lines.append(f"| {name} | {worst(found)} | {'; '.join(reasons) or 'nothing changed'} |")
    out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _changes(task: str, good: Path, before: Measurement) -> dict[str, Measurement]:
    again = _built("again", task, 0.5)
    found = {"the same recipe built anew": _measured("again", again, before=before)[0]}
    os.environ["EDGEPRUNE_SPARSE"] = "0"
    found["kernels off (`EDGEPRUNE_SPARSE=0`)"] = _measured("stock", good, before=before)[0]
    del os.environ["EDGEPRUNE_SPARSE"]
    os.environ["EDGEPRUNE_KERNEL"] = "avx2"
    found["slower kernels (`EDGEPRUNE_KERNEL=avx2`)"] = _measured("avx2", good, before=before)[0]
    del os.environ["EDGEPRUNE_KERNEL"]
    found["one thread instead of two"] = _measured("one-thread", good, 1, before)[0]
    worse = _built("worse", task, 0.55)
    found["55 % zeros instead of 50 %"] = _measured("worse", worse, before=before)[0]
    return found


def _built(name: str, task: str, sparsity: float) -> Path:
    built = build(Recipe.of(task=task, sparsity=sparsity), _WORK / task / name, Bars())
    assert built
    return built.folder


def _measured(
    name: str, folder: Path, threads: int | None = None, before: Measurement | None = None
) -> tuple[Measurement, float]:
    """A measurement, and the seconds that it took; known ones are only read."""
    record = folder.parent / f"{name}.json"
    known = read_json(record)
    if known is None or known["measured"]["schema"] != SCHEMA:
        start = time.perf_counter()
        found = measure(folder, ROUNDS, threads, Quiet(), before)
        known = {"seconds": time.perf_counter() - start, "measured": found.to_json()}
        write_json(record, known)
    click.echo(f"{name}: {known['seconds']:.0f} s", err=True)
    return Measurement.model_validate(known["measured"]), known["seconds"]


def _slowed(measured: Measurement, share: float) -> Measurement:
    def less(samples: list[float]) -> list[float]:
        return [speed * (1 - share) for speed in samples]

    own = measured.artifacts["pruned"]
    slower = own.model_copy(update={"prefill": less(own.prefill), "decode": less(own.decode)})
    return measured.model_copy(update={"artifacts": measured.artifacts | {"pruned": slower}})


def _shares(name: str, found: Counter[str], pairs: int) -> str:
    cells = (f"{found[v] / pairs:.1%}" for v in ("held", "unclear", "regressed"))
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
