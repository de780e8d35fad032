"""What training the kept weights brings: writes docs/recovery.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/recovery.py --minutes 60 --budget 10m

Every row is pruned, trained within the budget, exported and scored in llama.cpp; what was tried
before is only read. The most telling rows come first, and the page lists what was measured and
nothing else.
"""

import time
from pathlib import Path
from typing import Any

import click

from edgeprune.calibration.data import load_data
from edgeprune.machine import sentence
from edgeprune.models import open_checkpoint
from edgeprune.progress import Bars
from edgeprune.recipe import Recipe, make
from edgeprune.trial import trial

_WORK = Path("ablations/recovery")
_WAYS = {
    "one-shot": [],
    "distill": ["distill"],
    "reconstruct": ["reconstruct"],
    "both": ["reconstruct", "distill"],
}
_HEADINGS = (
    "task", "zeros", "type", "recovery", "general perplexity", "accuracy", "nats / answer token",
    "minutes",
)  # fmt: skip


@click.command()
@click.option("--minutes", default=60.0, help="begin no new row after so many minutes")
@click.option("--budget", default="10m")
@click.option("--rows", default=150, help="evaluation rows of each task")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/recovery.md"))
def main(minutes: float, budget: str, rows: int, out: Path) -> None:
    deadline = time.monotonic() + 60 * minutes
    found: list[tuple[str, ...]] = []
    for task, amount, kind, way in _steps():
        if time.monotonic() > deadline:
            break
        found.append(_row(_recipe(task, amount, kind, way, budget, rows), amount, way))
        out.write_text(_page(found, budget, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _steps() -> list[tuple[str, str, str, str]]:
    """Task, sparsity or pattern, type and way of training, the most telling first."""
    first = [("arc_easy", "0", "q8_0", "dense")]
    first += [("arc_easy", "0.5", "q8_0", way) for way in ("one-shot", "distill")]
    first += [("arc_easy", "0.5", "q8_0", way) for way in ("reconstruct", "both")]
    first += [("arc_easy", "0", "q4_0", "dense")]
    first += [("arc_easy", "0.5", "q4_0", way) for way in ("one-shot", "distill")]
    rest = [
        (task, amount, "q8_0", way)
        for task in ("sciq", "arc_easy")
        for amount in ("0", "0.5", "0.6", "0.7", "2:4")
        for way in (("dense",) if amount == "0" else ("one-shot", "distill"))
    ]
    return first + [step for step in rest if step not in first]


def _recipe(task: str, amount: str, kind: str, way: str, budget: str, rows: int) -> Recipe:
    ways = _WAYS.get(way, [])
    training = {"recover": True, "recover_by": ways, "recover_budget": budget} if ways else {}
    zeros = {"pattern": amount} if ":" in amount else {"sparsity": float(amount)}
    return make(
        {"task": task, "general": "wikitext2", "eval_rows": rows, "perplexity_tokens": 6144,
         "type": kind} | zeros | training
    )  # fmt: skip


def _row(recipe: Recipe, amount: str, way: str) -> tuple[str, ...]:
    start = time.monotonic()
    data = load_data(recipe.task, recipe.general, recipe.eval_rows, recipe.perplexity_tokens)
    result = trial(recipe, open_checkpoint(recipe.model), data, _WORK, Bars())
    click.echo(f"{recipe.task} {amount} {recipe.type} {way}: {_minutes(start):.1f} min", err=True)

    def interval(measure: str, digits: int) -> str:
        value: dict[str, Any] = result[measure]
        ends = f"{value['low']:.{digits}f}-{value['high']:.{digits}f}"
        return f"{value['value']:.{digits}f} ({ends})"

    return (
        recipe.task,
        "none" if amount == "0" else amount,
        recipe.type,
        way,
        f"{result['general_perplexity']['value']:.1f}",
        interval("accuracy", 3),
        interval("nats_per_answer_token", 3),
        f"{_minutes(start):.1f}" if _minutes(start) > 0.1 else "kept",
    )


def _minutes(start: float) -> float:
    return (time.monotonic() - start) / 60


def _page(found: list[tuple[str, ...]], budget: str, rows: int) -> str:
    lines = [
        "# Recovery, measured",
        "",
        "Written by `benchmarks/recovery.py`. SmolLM2-135M-Instruct (from its Q4_1 file), pruned "
        f"with the defaults (alps_fast, mix), trained for {budget} (halves of it for each of "
        "*both*), exported and scored in llama.cpp. Q4_0 rows: one-shot is rounded with error "
        "feedback; distilled weights are trained on their grid in the last 40 % of the steps. "
        f"General text: Wikipedia and web pages to train on, 6,144 tokens of WikiText-2 test to "
        f"measure. {rows} evaluation rows, 95 % intervals over them. Minutes are those of pruning, "
        "training, export and scoring; *kept* rows are of an earlier run.",
        "",
        sentence(),
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + " --- |" * len(_HEADINGS),
        *("| " + " | ".join(row) + " |" for row in found),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
