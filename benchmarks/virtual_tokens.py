"""What virtual tokens bring, before and after training: writes docs/measured/virtual-tokens.md.

    python benchmarks/virtual_tokens.py --minutes 30

SmolLM2-135M in Q4_0 (GPTQ's rounding), on calls of an app's functions. Rows that are known from an
earlier run are only read.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click

from benchmarks.scoring import scored
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.virtual import add_tokens
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars

_PAGE, _WORK = Path("docs/measured/virtual-tokens.md"), Path("ablations/virtual-tokens")
_TASK = "app_actions"
_COUNTS, _SEEDS = (16, 64), (0, 1, 2)
_BASE: dict[str, Any] = {
    "artifact.type": "q4_0", "artifact.embedding_type": "q4_0", "pruning.sparsity": 0.0,
    "data.samples": 8, "training.enabled": True, "training.learning_rate": 6e-4,
    "training.grid_from": 0.05, "training.learn_scales": True, "training.embedding": False,
    "training.task_share": 0.75, "measurement.perplexity_tokens": 512,
}  # fmt: skip
_WAYS = {"as it came": [], "trained": ["finetune"]}


@click.command()
@click.option("--minutes", default=0.0, help="begin no new row after so many minutes")
@click.option("--steps", default=30, help="of each training")
@click.option("--rows", default=127, help="evaluation rows")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(minutes: float, steps: int, rows: int, out: Path) -> None:
    deadline, found = time.monotonic() + 60 * minutes, list[dict[str, Any]]()
    for way, count, seed in _asked():
        record = _WORK / f"{way}-{count}-{seed}-{steps}-{rows}.json".replace(" ", "-")
        known = read_json(record)
        if known is None and time.monotonic() < deadline:
            known = _measured(way, count, seed, steps, rows)
            write_json(record, known)
        found += [known] if known else []
    out.write_text("\n".join(_page(found, steps, rows)), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _asked() -> Iterator[tuple[str, int, int]]:
    """In an order that trains each model once."""
    for way in _WAYS:
        yield way, 0, 0
        for count in _COUNTS:
            for seed in _SEEDS:
                yield way, count, seed


def _measured(way: str, count: int, seed: int, steps: int, rows: int) -> dict[str, Any]:
    own = {"training.ways": _WAYS[way], "training.steps": steps, "measurement.eval_rows": rows}
    # Without a way of training there is nothing to do but round, until tokens are asked for.
    recipe = Recipe.of(_BASE | own | {"training.virtual_tokens": max(count, 1)}, task=_TASK)
    job = open_job(recipe, Workspace(_WORK / "run", Bars()))
    plan = planner.plan(job)
    sparse = sparsify(job, plan)
    asked = job.changed({"training.virtual_tokens": count, "data.seed": seed})
    made, laid_out, full = add_tokens(asked, plan, sparse)
    assert full.checkpoint
    model, metadata = pruned_model(made, full.checkpoint)
    _, quality = scored(made, laid_out, model, metadata, _WORK / "model.gguf")
    facts = (full.training or {}).get("virtual")
    curve = [point["held_out"] for point in facts["curve"]] if facts else []
    return {"way": way, "count": count, "seed": seed, "curve": curve,
            "nats": quality["nats_per_answer_token"], "calls": quality["calls"]}  # fmt: skip


def _page(found: list[dict[str, Any]], steps: int, rows: int) -> Iterator[str]:
    yield "# What virtual tokens bring"
    yield ""
    yield (
        f"Written by `benchmarks/virtual_tokens.py`. SmolLM2-135M-Instruct in Q4_0, {_TASK}: 38 "
        f"functions that prompts do not list. {steps} steps of fine-tuning where it says trained, "
        f"and {steps} steps of 8 rows for the virtual tokens, with everything else frozen; mean ± "
        f"standard deviation over seeds. {rows} evaluation rows, in llama.cpp."
    )
    yield ""
    yield sentence()
    yield ""
    yield "| model | virtual tokens | seeds | nats / answer token | exact calls | right function |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for way in _WAYS:
        for count in (0, *_COUNTS):
            own = [one for one in found if (one["way"], one["count"]) == (way, count)]
            if own:
                free = [one["calls"]["free"] for one in own]
                cells = [
                    way, str(count), str(len(own)), _spread([one["nats"]["value"] for one in own]),
                    _spread([one["exact"]["value"] for one in free]),
                    _spread([one["function"]["value"] for one in free]),
                ]  # fmt: skip
                yield f"| {' | '.join(cells)} |"
    yield ""


def _spread(values: list[float]) -> str:
    more = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{more}"


if __name__ == "__main__":
    main()
