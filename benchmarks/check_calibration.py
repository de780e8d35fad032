"""How often `edgeprune check` raises a false alarm, and what it catches.

Writes docs/measured/check.md, a row for each machine, kept in check.jsonl beside it.

    python benchmarks/check_calibration.py --task medqa
    python benchmarks/check_calibration.py --busy          # with a process that spins on one core

One build is checked against itself again and again with the default settings: whatever is found is
a false alarm. Each is timed to the end, and then judged look by look as `check` does, which ends
when all is clear. A check times three processes of the file side by side; each of them in turn is
taken for the build's, so that it makes three comparisons, of which two are independent. They are
judged as they were, and with the build's speeds cut by 5 and 10 %, as an artifact that runs slower
would show. Then real changes are made, one at a time: the same recipe built anew, edgeprune's
kernels turned off, or slower ones chosen, one thread less, more zeros.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np

from edgeprune import Recipe, build
from edgeprune.manifest.manifest import read
from edgeprune.regression.check import SECONDS, judged, worst
from edgeprune.regression.measure import Look, looks, measure
from edgeprune.regression.measurement import SCHEMA, Measurement, Timed
from edgeprune.regression.thresholds import Thresholds
from edgeprune.regression.verdicts import Finding
from edgeprune.runtime.llamacpp import availability
from edgeprune.support.environment import describe
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Bars, Quiet

_WORK = Path("ablations/check")
_SLOWER = {"decode 5 %": ("decode", 0.95), "decode 10 %": ("decode", 0.9),
           "prefill 10 %": ("prefill", 0.9)}  # fmt: skip
_PROSE = (
    "Written by `benchmarks/check_calibration.py`. A build (SmolLM2-135M pruned for {task} to "
    "50 %, Q8_0) is checked against itself with the default settings, and the same samples are "
    "judged with its speeds cut; each of a check's three processes takes the build's part in turn. "
    "*Seconds* are of timing, in the mean, and at most. *A/A spread* "
    "is the standard deviation of the ratio of two processes of one file. Kinds of machine are "
    "rows; all are virtual ones that share their processor. [Why the rule is what it "
    "is](check-rule.md)."
)
_COLUMNS = (
    "machine", "checks, comparisons", "held", "could not tell", "regressed",
    *(f"{name} slower: caught" for name in _SLOWER), "seconds", "A/A spread, decode", "prefill",
)  # fmt: skip


@click.command()
@click.option("--task", default="medqa")
@click.option("--checks", default=20)
@click.option("--busy", is_flag=True, help="Keep one core busy with something else.")
@click.option("--changes/--no-changes", default=False, help="Also make real changes, one each.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/check.md"))
def main(task: str, checks: int, busy: bool, changes: bool, out: Path) -> None:
    good = _built("good", task, 0.5)
    rows = out.with_suffix(".jsonl")
    with _spinning(busy):
        before = _baseline(good, busy)
        found = [_checked(f"same-{busy:d}-{i:03d}", good, before) for i in range(checks)]
    _keep(rows, _row(task, busy, before, found))
    if changes:
        _keep(rows, {"kind": "change", "machine": _machine(False)} | _changes(task, good, before))
    out.write_text(_page(task, [json.loads(line) for line in rows.read_text().splitlines()]))
    click.echo(out.read_text())


@contextmanager
def _spinning(busy: bool) -> Iterator[None]:
    """Keep a core busy, if asked to."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if other:
            other.kill()


def _row(task: str, busy: bool, before: Measurement, found: list[list[Look]]) -> dict[str, Any]:
    """Count verdicts: of the build beside itself, and of slower ones."""
    turned = [[_turned(look, role) for look in one] for one in found for role in range(3)]
    same = [judged(before, one, Thresholds()) for one in turned]
    alarms = Counter(
        line.measure for lines, _ in same for line in lines if line.verdict == "regressed"
    )
    caught = {
        name: sum(worst(_judged_slower(before, one, *how)) == "regressed" for one in turned)
        for name, how in _SLOWER.items()
    }
    spread = {
        kind: mean(_apart(one[-1].found, kind) for one in found) for kind in ("decode", "prefill")
    }
    return {
        "kind": "same", "machine": _machine(busy), "task": task, "checks": len(found),
        "comparisons": len(turned), **Counter(worst(lines) for lines, _ in same),
        "caught": caught, "alarms": alarms,
        "seconds": mean(measured.seconds for _, measured in same),
        "longest": max(one[-1].found.seconds for one in found),
        "processes": median(_processes(measured) for _, measured in same), "spread": spread,
    }  # fmt: skip


def _turned(look: Look, role: int) -> Look:
    """Take another process of each block for the build's: all of them run the same file."""
    found = look.found
    own = found.artifacts[found.own]
    speeds = [Timed(prefill=one.prefill, decode=one.decode) for one in (own, *found.beside)]
    build, *beside = speeds[role:] + speeds[:role]
    own = own.model_copy(update=vars(build))
    turned = {"beside": tuple(beside), "artifacts": found.artifacts | {found.own: own}}
    return replace(look, found=found.model_copy(update=turned))


def _judged_slower(
    before: Measurement, found: list[Look], kind: str, factor: float
) -> list[Finding]:
    slower = [replace(look, found=_slowed(look.found, kind, factor)) for look in found]
    return judged(before, slower, Thresholds())[0]


def _processes(measured: Measurement) -> int:
    return len(measured.artifacts[measured.own].decode)


def _apart(measured: Measurement, kind: str) -> float:
    """Standard deviation of the logarithm of one file's speed over the same file's."""
    one, again = measured.beside
    return float(np.log(again.of(kind) / one.of(kind)).std(ddof=1))


def _slowed(measured: Measurement, kind: str, factor: float) -> Measurement:
    own = measured.artifacts[measured.own]
    slower = [[factor * speed for speed in runs] for runs in getattr(own, kind)]
    slow = own.model_copy(update={kind: slower})
    return measured.model_copy(update={"artifacts": measured.artifacts | {measured.own: slow}})


def _changes(task: str, good: Path, before: Measurement) -> dict[str, Any]:
    again, worse = _built("again", task, 0.5), _built("worse", task, 0.55)
    made = {
        "the same recipe built anew": _findings("again", again, before),
        "55 % zeros instead of 50 %": _findings("worse", worse, before),
        "one thread instead of two": _findings("one-thread", good, before, threads=1),
        "kernels off (`EDGEPRUNE_SPARSE=0`)": _findings("stock", good, before, SPARSE="0"),
        "slower kernels (`EDGEPRUNE_KERNEL=avx2`)": _findings("avx2", good, before, KERNEL="avx2"),
    }
    found = {}
    for name, lines in made.items():
        reasons = [f"{line.measure} {line.sentence}" for line in lines if line.verdict != "held"]
        found[name] = (worst(lines), reasons)
    return {"changes": found}


def _findings(
    name: str, folder: Path, before: Measurement, threads: int | None = None, **settings: str
) -> list[Finding]:
    variables = {f"EDGEPRUNE_{key}": value for key, value in settings.items()}
    os.environ |= variables
    found = _checked(name, folder, before, threads)
    for variable in variables:
        del os.environ[variable]
    return judged(before, found, Thresholds())[0]


def _built(name: str, task: str, sparsity: float) -> Path:
    built = build(Recipe.of(task=task, sparsity=sparsity), _WORK / task / name, Bars())
    assert built
    return built.folder


def _baseline(folder: Path, busy: bool) -> Measurement:
    record = _record(folder, f"baseline-{busy:d}")
    if not record.exists():
        write_json(record, measure(folder, Quiet()).to_json())
    return Measurement.model_validate(read_json(record))


def _record(folder: Path, name: str) -> Path:
    """Where a measurement is kept: of this artifact, with these kernels, in this form."""
    made_of = [read(folder).artifact.sha256, availability.fingerprint(), SCHEMA]
    return folder.parent / sha256_json(made_of)[:16] / f"{name}.json"


def _checked(
    name: str, folder: Path, before: Measurement, threads: int | None = None
) -> list[Look]:
    """Look at a build as a check does, to the end; known looks are only read."""
    record = _record(folder, name)
    if not record.exists():
        found = list(looks(folder, Quiet(), before, SECONDS, threads))
        write_json(record, [[one.before, one.now, one.found.to_json()] for one in found])
    known = read_json(record) or []
    found = [Look(Measurement.model_validate(one), start, end) for start, end, one in known]
    click.echo(f"{name}: {found[-1].found.seconds:.0f} s", err=True)
    return found


def _machine(busy: bool) -> str:
    found = describe()
    return f"{found['processor']}, {found['cores']} cores" + (", one of them busy" if busy else "")


def _keep(rows: Path, row: dict[str, Any]) -> None:
    """Add a row, in place of an older one of the same kind of machine."""
    known = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    kept = [one for one in known if (one["kind"], one["machine"]) != (row["kind"], row["machine"])]
    rows.write_text("".join(json.dumps(one) + "\n" for one in [*kept, row]))


def _page(task: str, rows: list[dict[str, Any]]) -> str:
    lines = ["# How `edgeprune check` errs, measured", "", _PROSE.format(task=task), "",
             "| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]  # fmt: skip
    for row in (one for one in rows if one["kind"] == "same"):
        shares = [row.get(verdict, 0) for verdict in ("held", "unclear", "regressed")]
        shares += [row["caught"][name] for name in _SLOWER]
        cells = [row["machine"], f"{row['checks']}, {row['comparisons']}",
                 *(f"{one / row['comparisons']:.0%}" for one in shares),
                 f"{row['seconds']:.0f}, {row['longest']:.0f}", f"{row['spread']['decode']:.1%}",
                 f"{row['spread']['prefill']:.1%}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        if row["alarms"]:
            said = ", ".join(f"{measure} {count}" for measure, count in row["alarms"].items())
            lines += ["", f"False alarms: {said}.", ""]
    for row in (one for one in rows if one["kind"] == "change"):
        lines += ["", f"A real change, on {row['machine']}:", "", "| | verdict | because |",
                  "| --- | --- | --- |"]  # fmt: skip
        for name, (verdict, reasons) in row["changes"].items():
            lines.append(f"| {name} | {verdict} | {'; '.join(reasons) or 'nothing changed'} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
