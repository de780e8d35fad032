"""What a minute of training brings: ways to spend it, at equal minutes, and more minutes.

Writes docs/measured/training.md; rows that are known from an earlier run are only read.

    EDGEPRUNE_DATA=../shared/data python benchmarks/training.py --minutes 60

Every row is the same model in the same storage, trained for as long in one way, exported and scored
in llama.cpp. Keep the machine alone: time is what is compared.
"""

import time
from pathlib import Path
from typing import Any

import click

from benchmarks.scoring import scored
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.keys import TRAINING_VERSION
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe, flat
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Bars

_PAGE, _WORK = Path("docs/measured/training.md"), Path("ablations/training")
_STORAGE = {"artifact.type": "q4_0:3", "artifact.embedding_type": "q4_0", "pruning.sparsity": 0.0}
# As a build trains that chooses its storages, but for the rate and what a row names.
_BASE: dict[str, Any] = {
    "training.grid_from": 0.05, "training.learn_scales": True, "training.embedding": False,
}  # fmt: skip
_WAYS: dict[str, dict[str, Any]] = {
    "two sequences a step, rate 3e-4": {},
    "one sequence a step": {"training.batch": 1},
    "rate 6e-4, as builds have it": {"training.learning_rate": 6e-4},
    "rate 1e-3": {"training.learning_rate": 1e-3},
    "one sequence, rate 6e-4": {"training.batch": 1, "training.learning_rate": 6e-4},
    "four sequences, rate 6e-4": {"training.batch": 4, "training.learning_rate": 6e-4},
    "the dense model's predictions alone": {"training.text_share": 0.0},
    "half the task's": {"training.task_share": 0.5},
    "sequences of 256": {"data.length": 256, "training.batch": 4},
    "grid in the last 40 %": {"training.grid_from": 0.6},
    "from GPTQ's rounding": {"training.grid_from": 0.0},
    "scales as fitted": {"training.learn_scales": False},
    "adapters of rank 32": {"training.rank": 32, "training.learning_rate": 1e-3},
}
_SECONDS = (130, 300, 600)  # the first for every way
_LONGER = "rate 6e-4, as builds have it"


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--minutes", default=0.0, help="begin no new row after so many minutes")
@click.option("--rows", default=200, help="evaluation rows")
@click.option("--way", "only", multiple=True, help="only these ways")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, minutes: float, rows: int, only: tuple[str, ...], out: Path) -> None:
    deadline, found = time.monotonic() + 60 * minutes, []
    asked = [(way, _SECONDS[0]) for way in _WAYS] + [(_LONGER, s) for s in _SECONDS[1:]]
    for way, seconds in asked:
        recipe = _recipe(task, way, seconds, rows)
        record = _WORK / f"{_key(recipe)}.json"
        known = read_json(record)
        if known is None and time.monotonic() < deadline and (not only or way in only):
            known = _measured(recipe)
            write_json(record, known)
        found += [known | {"way": way, "seconds": seconds}] if known else []
    out.write_text(_page(found, task, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _recipe(task: str, way: str, seconds: int, rows: int) -> Recipe:
    measured = {"measurement.eval_rows": rows, "measurement.perplexity_tokens": 8192}
    training = {"training.enabled": True, "training.budget": f"{seconds}s", "data.chat": "none"}
    return Recipe.of(
        measured | _STORAGE | training | _BASE | _WAYS[way], task=task, general="wikitext2"
    )


def _key(recipe: Recipe) -> str:
    """Hash what a row depends on."""
    settings = {name: v for name, v in flat(recipe).items() if not name.startswith("goal.")}
    return sha256_json([TRAINING_VERSION, settings, sentence()])[:16]


def _measured(recipe: Recipe) -> dict[str, Any]:
    job = open_job(recipe, Workspace(_WORK / "run", Bars()))
    plan = planner.plan(job)
    sparse = sparsify(job, plan)
    assert sparse.checkpoint
    assert sparse.training
    trained = sparse.training["finetune"]
    path = _WORK / "model.gguf"
    _, quality = scored(job, plan, *pruned_model(job, sparse.checkpoint), path)
    path.unlink()
    measures = ("nats_per_answer_token", "accuracy", "general_perplexity")
    return {name: quality[name] for name in measures} | {
        "steps": trained["steps"], "held_out": min(p["held_out"] for p in trained["curve"][1:]),
    }  # fmt: skip


def _page(found: list[dict[str, Any]], task: str, rows: int) -> str:
    lines = [
        "# What a minute of training brings",
        "",
        "Written by `benchmarks/training.py`. SmolLM2-135M-Instruct, every block in 3-bit codes "
        "(`q4_0:3`), the embedding in Q4_0, fine-tuned on the answers of "
        f"{task} beside WikiText-2, on their grid after 5 % of the steps and with trained scales "
        "unless a row says otherwise. Time includes loading, judging, and the timed steps from "
        f"which the others are planned. {rows} evaluation rows with 95 % intervals, 8,192 tokens "
        "of held-out text.",
        "",
        sentence(),
        "",
        "| training | seconds | steps | nats / answer token | accuracy | perplexity |",
        "|" + " --- |" * 6,
    ]
    for one in found:
        nats, accuracy, text = (
            one[name] for name in ("nats_per_answer_token", "accuracy", "general_perplexity")
        )
        lines.append(
            f"| {one['way']} | {one['seconds']} | {one['steps']} | {nats['value']:.3f} "
            f"({nats['low']:.3f}-{nats['high']:.3f}) | {accuracy['value']:.3f} "
            f"| {text['value']:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
