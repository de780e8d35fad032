"""How well built models call an app's functions: writes docs/measured/calls.md.

    python benchmarks/calls.py --minutes 40

Each row is the recipe app-assistant with some settings of its own: a build as users make it, in
ablations/calls. Finished ones are only read; --only begins no others than those named.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeprune import build
from edgeprune.manifest import read
from edgeprune.manifest.results import Measured
from edgeprune.recipe.load import resolve
from edgeprune.report.words import call_shares, interval_text, size_text
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json
from edgeprune.support.progress import Bars

_PAGE, _WORK, _RECIPE = Path("docs/measured/calls.md"), Path("ablations/calls"), "app-assistant"
_STEPS = 60  # of each training: what the recipe's minutes are on two cores
_DENSE = {"pruning.sparsity": 0.0, "artifact.type": "q8_0"}
# A row with its functions takes about 1,000 tokens: fewer, longer sequences, and fewer rows.
_LISTED = {
    "data.length": 1280, "training.batch": 1, "measurement.eval_rows": 24,
    "measurement.processes": 2,
}  # fmt: skip
_MANY_APPS = {"measurement.eval_rows": 16, "goal.size": "65MB"}  # calls are longer
_KINDS: dict[str, dict[str, Any]] = {
    "chosen, functions learnt": {},
    "dense Q8_0, trained alike": _DENSE,
    "chosen, functions listed": {"data.task": "app_actions_listed", **_LISTED},
    "chosen, tool_calls": {"data.task": "tool_calls", **_LISTED, **_MANY_APPS},
}
_HEADINGS = (
    "model", "rows", "file", "exact calls", "called / right function / refused",
    "exact, in a grammar", "ms a call", "prompt tokens", "nats / answer token", "perplexity",
)  # fmt: skip


@click.command()
@click.option("--minutes", default=0.0, help="begin no new build after so many minutes")
@click.option("--only", multiple=True, help="begin these alone")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(minutes: float, only: tuple[str, ...], out: Path) -> None:
    deadline, found = time.monotonic() + 60 * minutes, dict[str, Found]()
    for name, settings in _KINDS.items():
        folder = _WORK / name.replace(" ", "-").replace(",", "")
        may_run = time.monotonic() < deadline and (not only or name in only)
        if not (folder / "manifest.json").exists() and may_run:
            build(resolve(_RECIPE, (), settings | {"training.steps": _STEPS}), folder, Bars())
        if one := _found(folder):
            found[name] = one
    out.write_text("\n".join(_page(found)), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Found:
    """A build's measured files, the name of its own, and the bytes of that when packed."""

    artifacts: Mapping[str, Measured]
    own: str
    packed_bytes: int | None
    missed: bool = False


def _found(folder: Path) -> Found | None:
    """Read a build, or what it measured before it was stopped in a second try at its goal."""
    if (folder / "manifest.json").exists():
        one = read(folder)
        size = one.packed.packed_bytes if one.packed else None
        return Found(one.results.artifacts, one.results.own, size)
    measured, packed = (read_json(folder / "work" / f"{n}.json") for n in ("runtime-test", "pack"))
    if not measured or not packed:
        return None
    files = {n: Measured.model_validate(v) for n, v in measured["value"]["artifacts"].items()}
    return Found(files, "pruned", packed["value"]["packed_bytes"], missed=True)


def _page(found: dict[str, Found]) -> list[str]:
    lines = [
        "# Calls of an app's functions",
        "",
        "Written by `benchmarks/calls.py`. SmolLM2-135M-Instruct on `app_actions`: 38 functions of "
        "a phone's apps, which prompts do not list. Trained by the recipe `app-assistant`, "
        f"{_STEPS} steps for every file. Shares of rows with 95 % intervals; a grammar holds "
        "llama.cpp to calls of all 38 functions. Where functions are listed, a step has one row of "
        "about 1,000 tokens, and fewer rows are measured.",
        "",
        sentence(),
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|" + " --- |" * len(_HEADINGS),
    ]
    for name, build_of in found.items():
        if "trained" not in name:
            of = name.replace("chosen", "dense Q8_0, as it came")
            lines.append(_row(of, build_of.artifacts["dense"], None))
        words = f"{name} (general text beyond its goal)" if build_of.missed else name
        lines.append(_row(words, build_of.artifacts[build_of.own], build_of.packed_bytes))
    return [*lines, ""]


def _row(name: str, one: Measured, size: int | None) -> str:
    calls = one.calls
    assert calls is not None
    cells = [
        name,
        str(calls.free.exact.rows),
        size_text(size or one.file_bytes),
        interval_text(calls.free.exact, 3),
        call_shares(calls.free),
        interval_text(calls.grammar.exact, 3) if calls.grammar else "",
        f"{calls.milliseconds:.0f}",
        f"{calls.prompt_tokens:.0f}",
        interval_text(one.nats_per_answer_token, 2),
        f"{one.general_perplexity.value:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
