"""Methods, fusions and sparsities side by side: writes docs/measured/quality.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/quality.py --minutes 600

Every row is pruned, exported as Q8_0 and scored in llama.cpp; what was tried before is only read.
The most telling rows come first, so that a run that is cut short by ``--minutes`` still gives a
page; the page lists what was measured and nothing else.
"""

import time
from pathlib import Path
from typing import Any

import click

from edgeprune.experiments.ablation import Variant, ablate, markdown
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import sentence
from edgeprune.support.progress import Bars

_AMOUNTS = ("0.5", "2:4", "0.6", "0.7")
_MAIN = (("wanda", "mix"), ("sparsegpt", "mix"), ("alps_fast", "mix"), ("alps", "mix"))
_FUSIONS = [("alps_fast", fusion) for fusion in ("general", "task", "fused")]
_OTHERS = [(m, "mix") for m in ("ria", "isc", "wanda_pp", "fisher", "rose")] + [("magnitude", "")]


@click.command()
@click.option("--minutes", default=60.0, help="begin no new row after so many minutes")
@click.option("--samples", default=24)
@click.option("--rows", default=150, help="evaluation rows of each task")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/quality.md"))
def main(minutes: float, samples: int, rows: int, out: Path) -> None:
    deadline = time.monotonic() + 60 * minutes
    found: dict[str, dict[Variant, dict[str, Any]]] = {"arc_easy": {}, "sciq": {}}
    for task, variant, seeds in _steps():
        if time.monotonic() > deadline:
            break
        recipe = Recipe.of(
            {"measurement": {"eval_rows": rows, "perplexity_tokens": 6144}},
            task=task, general="wikitext2", samples=samples, type="q8_0",
        )  # fmt: skip
        dense, record = ablate(
            recipe, [variant], list(range(seeds)), Path("ablations") / f"quality-{task}", Bars()
        )
        known = found[task].get(variant)
        if known is None or len(known["trials"]) <= seeds:
            found[task] |= {Variant("dense"): dense, variant: record}
        out.write_text(_page(found, samples, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _steps() -> list[tuple[str, Variant, int]]:
    """Task, variant and number of seeds, the most telling first."""
    first = [("arc_easy", Variant(m, f, "0.5"), 1) for m, f in _MAIN]
    first += [("sciq", Variant(m, f, "0.5"), 1) for m, f in _MAIN[:3]]
    first += [("arc_easy", Variant(m, f, "0.5"), 3) for m, f in _MAIN[:3]]
    first += [("arc_easy", Variant(m, f, "0.5"), 1) for m, f in _FUSIONS]
    second = [
        (task, Variant(m, f, amount), 1)
        for amount in _AMOUNTS
        for task in ("arc_easy", "sciq")
        for m, f in _MAIN[:3]
    ]
    third = [("arc_easy", Variant(m, f, "0.5"), 1) for m, f in _OTHERS]
    seeds = [("arc_easy", Variant(m, f, "0.5"), 3) for m, f in _FUSIONS]
    rest = [("sciq", Variant(m, f, a), 1) for a in _AMOUNTS for m, f in (*_MAIN, *_FUSIONS)]
    last = [("arc_easy", Variant(m, f, a), 1) for a in _AMOUNTS for m, f in (*_FUSIONS, *_OTHERS)]
    return [*first, *second, *third, *seeds, *rest, *last]


def _page(found: dict[str, dict[Variant, dict[str, Any]]], samples: int, rows: int) -> str:
    lines = [
        "# Methods and sparsities, measured",
        "",
        "Written by `benchmarks/quality.py`. SmolLM2-135M-Instruct (from its Q4_1 file), pruned, "
        "exported as Q8_0 and scored in llama.cpp. Calibration: "
        f"{samples} × 512 tokens a stream, general text from Wikipedia and web pages, the task "
        f"through its answer template. {rows} evaluation rows of each task, 6,144 tokens of "
        "WikiText-2 test. ± is the 95 % interval over rows for one seed, the standard deviation "
        "over seeds for more.",
        "",
        "What training brings after it: [recovery.md](recovery.md). Sparse against dense quantised "
        "files, all trained alike: [equal-bytes.md](equal-bytes.md).",
        "",
        sentence(),
    ]
    for task, records in found.items():
        if records:
            lines += ["", f"## {task}", "", markdown(list(records.values())).rstrip()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
