"""What training the kept weights brings: writes docs/measured/recovery.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/recovery.py --minutes 60 --budget 3m

Every row is pruned, trained within the budget, exported and scored in llama.cpp. Rows are kept in
benchmarks/results/recovery.json: what a machine has measured it only reads. The most telling rows
come first, and the page lists what was measured and nothing else.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.scoring import scored
from edgeprune.data.jsonl import read_jsonl
from edgeprune.data.sources import DATA_VARIABLE
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import dense_model, open_job
from edgeprune.pipeline.keys import TRAINING_VERSION
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe, flat
from edgeprune.support.environment import cores, sentence
from edgeprune.support.files import sha256_json, write_json
from edgeprune.support.progress import Bars
from runtime_tests import accuracy, child

_WORK, _RECORDS = Path("ablations/recovery"), Path("benchmarks/results/recovery.json")
_WAYS: dict[str, dict[str, Any]] = {
    "dense": {"pruning.sparsity": 0},
    "one-shot": {},
    "reconstruct": {"training.ways": ["reconstruct"]},
    "distill": {"training.ways": ["distill"]},
    "distill, hidden states": {"training.ways": ["distill"], "training.hidden_weight": 1.0},
    "finetune": {},
    "dense, finetune": {"pruning.sparsity": 0},
    "finetune, low-perplexity tokens": {"training.max_perplexity": 2.5},
    "finetune, selective": {"training.selective": True},
    "distill, adapters": {
        "training.ways": ["distill"], "training.rank": 32, "training.learning_rate": 1e-3,
    },
    "finetune, more text": {"training.text_share": 1.0, "training.task_share": 0.125},
    "finetune, gradual": {"training.start_sparsity": 0.4},
    "all": {"training.ways": ["reconstruct", "distill", "finetune"]},
}  # fmt: skip
# Ways by task and zeros, the most telling first. One pruning serves all the ways of a line.
_MAIN = ["dense", "one-shot", "finetune", "reconstruct", "distill", "all"]
_OPTIONS = [
    "finetune, low-perplexity tokens", "finetune, selective", "distill, hidden states",
    "distill, adapters", "finetune, more text", "finetune, gradual", "dense, finetune",
]  # fmt: skip
_LINES: list[tuple[str, str, list[str]]] = [
    ("arc_easy", "0.5", [*_MAIN, *_OPTIONS]),
    ("sciq", "0.5", _MAIN),
    *((task, zeros, _MAIN[1:])
      for task in ("arc_easy", "sciq") for zeros in ("0.6", "2:4", "0.7")),
]  # fmt: skip
_PAGES = ("wikipedia", "web_text")  # sets that `wikitext2` takes general text from
_TEXTS = ("general_perplexity", "pages_perplexity")
_ORDER = ["0.5", "0.6", "0.7", "2:4"]
_HEADINGS = (
    "task", "zeros", "recovery", "text", "budget", "nats / answer token", "accuracy", "perplexity",
    "pages", "won back: nats, perplexity, pages", "steps", "of the task", "minutes", "on",
)  # fmt: skip


@click.command()
@click.option("--minutes", default=60.0, help="begin no new row after so many minutes")
@click.option("--budget", default="3m", help="of each training")
@click.option("--rows", default=150, help="evaluation rows of each task")
@click.option("--general", default="wikitext2", help="corpus of general text")
@click.option("--task", "tasks", multiple=True, help="only these tasks, such as sciq")
@click.option("--way", "ways", multiple=True, help="only these ways, such as finetune")
@click.option("--zeros", "amounts", multiple=True, help="only these amounts, such as 0.5 or 2:4")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/recovery.md"))
def main(
    minutes: float,
    budget: str,
    rows: int,
    general: str,
    tasks: tuple[str, ...],
    ways: tuple[str, ...],
    amounts: tuple[str, ...],
    out: Path,
) -> None:
    deadline = time.monotonic() + 60 * minutes
    records: list[dict[str, Any]] = json.loads(_RECORDS.read_bytes()) if _RECORDS.exists() else []
    for task, zeros, line in _LINES:
        place = _WORK / f"{task}-{zeros.replace(':', 'of')}"
        for way in line:
            recipe = _recipe(task, zeros, way, budget, rows, general)
            about = _about(recipe, zeros, way)
            known = any(about.items() <= record.items() for record in records)
            choices = ((tasks, task), (ways, way), (amounts, zeros))
            wanted = all(not some or one in some for some, one in choices)
            if wanted and not known and time.monotonic() < deadline:
                records.append(about | _measured(recipe, place))
                write_json(_RECORDS, records)
        shutil.rmtree(place, ignore_errors=True)
    out.write_text(_page(records), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _recipe(task: str, zeros: str, way: str, budget: str, rows: int, general: str) -> Recipe:
    how = _WAYS[way]
    amount = {"pruning.pattern" if ":" in zeros else "pruning.sparsity": zeros}
    untrained = way in ("dense", "one-shot")
    training = {} if untrained else {"training.enabled": True, "training.budget": budget}
    measured = {"measurement.eval_rows": rows, "measurement.perplexity_tokens": 6144}
    if way.startswith("dense"):
        amount = {}
    return Recipe.of(measured | amount | training | how, task=task, general=general)


def _about(recipe: Recipe, zeros: str, way: str) -> dict[str, Any]:
    """What tells a row from others."""
    training, version = recipe.training, TRAINING_VERSION if recipe.training.enabled else None
    settings = flat(recipe)
    if not training.enabled:
        settings = {n: v for n, v in settings.items() if not n.startswith("training.")}
    return {
        "task": recipe.data.task,
        "zeros": zeros,
        "way": way,
        "general": recipe.data.general,
        "budget": training.budget if training.enabled else None,
        "task_share": training.task_share if training.enabled else None,
        "batch": training.batch if training.enabled else None,
        "rows": recipe.measurement.eval_rows,
        "recipe": sha256_json([version, settings])[:16],
        "machine": sentence(),
    }


def _measured(recipe: Recipe, place: Path) -> dict[str, Any]:
    start = time.monotonic()
    job = open_job(recipe, Workspace(place, Bars()))
    plan = planner.plan(job)
    sparse = sparsify(job, plan)
    model, metadata = dense_model(job.checkpoint), None
    if sparse.checkpoint:
        model, metadata = pruned_model(job, sparse.checkpoint)
    path = place / "model.gguf"
    _, found = scored(job, plan, model, metadata, path)
    trained = {n: t for n, t in (sparse.training or {}).items() if "steps" in t}
    measures = ("nats_per_answer_token", "accuracy", "general_perplexity")
    return {name: found[name] for name in measures} | {
        "pages_perplexity": _pages_perplexity(path, recipe.measurement.perplexity_tokens),
        "minutes": (time.monotonic() - start) / 60,
        "version": TRAINING_VERSION if recipe.training.enabled else None,
        "steps": {n: t["steps"] for n, t in trained.items()},
        "given_share": {n: t["task_share"] for n, t in trained.items()},
    }


def _pages_perplexity(artifact: Path, tokens: int) -> dict[str, float]:
    """Of test pages of the sets that `wikitext2` takes general text from."""
    nats: list[float] = []
    counted = 0
    with child.start(artifact, cores()) as runtime:
        for name in _PAGES:
            rows = read_jsonl(Path(os.environ[DATA_VARIABLE]) / f"{name}.test.jsonl.gz")
            text = "\n\n".join(row["text"] for row in rows)
            found = runtime.call("perplexity", text=text[: 8 * tokens], tokens=tokens)
            nats += found["nats"]
            counted += found["tokens"]
    return accuracy.perplexity(nats, counted)


def _page(records: list[dict[str, Any]]) -> str:
    machines = list(dict.fromkeys(record["machine"] for record in records))
    order = list(_WAYS)
    shown = sorted(
        records,
        key=lambda one: (
            one["task"], _ORDER.index(one["zeros"]), order.index(one["way"]),
            one["general"] != "wikitext2", machines.index(one["machine"]), one["minutes"],
        ),
    )  # fmt: skip
    lines = [
        "# Recovery, measured",
        "",
        "Written by `benchmarks/recovery.py`. SmolLM2-135M-Instruct (from its Q4_1 file), pruned "
        "with the defaults (alps_fast, mix), trained within the budget (*all*: a third of it each "
        "for reconstruction, distillation and fine-tuning), exported as Q8_0, scored in "
        "llama.cpp. *finetune* learns all tokens of the task's answers, *low-perplexity tokens* "
        "those whose perplexity is at most 2.5 to the dense model; *gradual* prunes to 40 % "
        "first, trains for half of the time, and prunes that model to 50 %. General text is "
        "learnt beside it in every way but *reconstruct*, half from the dense model's predictions "
        "and half from its own tokens, which *more text* learns alone. It comes from the corpus "
        "under *text*: `wikitext2` has Wikipedia and web pages to learn from and measures "
        "*perplexity* on 6,144 tokens of WikiText-2 test, text of another make; `boolq_passages`, "
        "a build's default, has passages of Wikipedia for both, no passage in both parts. "
        "*Pages* is the perplexity of other pages of both sets that `wikitext2` learns from, "
        "6,144 tokens of each. *Of the task* is the share of the task's sequences among all, "
        "fewer where they would come more than about twice (before version 6 of training, as many "
        "as asked for). Steps are given with the sequences of each. "
        f"{', '.join(map(str, sorted({one['rows'] for one in records})))} evaluation rows, 95 % "
        "intervals over them. *Won back* is the share of what pruning cost that training returned: "
        "of nats per answer token, and of the logarithm of each perplexity. *On* is the "
        "machine, and the version of training. Minutes are those "
        "of training, export and scoring, and of pruning in the first row of its kind.",
        "",
        *(
            f"- **{_letter(number)}** {machine}{_early(machine, records)}"
            for number, machine in enumerate(machines)
        ),
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + " --- |" * len(_HEADINGS),
        *("| " + " | ".join(_cells(record, records, machines)) + " |" for record in shown),
    ]
    return "\n".join(lines) + "\n"


def _early(machine: str, records: list[dict[str, Any]]) -> str:
    """What a reader has to know of rows from before recipes were recorded."""
    hashes = [record["recipe"] for record in records if record["machine"] == machine]
    return "" if all(hashes) else " Measured before versions were counted; digits as printed."


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _cells(record: dict[str, Any], records: list[dict[str, Any]], machines: list[str]) -> list[str]:
    nats, right = record["nats_per_answer_token"], record["accuracy"]
    shares = record.get("given_share") or dict.fromkeys(record["steps"], record["task_share"])
    return [
        record["task"],
        "none" if record["way"].startswith("dense") else record["zeros"],
        record["way"],
        record["general"],
        record["budget"] or "–",
        f"{nats['value']:.3f} ({nats['low']:.3f}-{nats['high']:.3f})",
        f"{right['value']:.3f} ({right['low']:.3f}-{right['high']:.3f})",
        f"{record['general_perplexity']['value']:.1f}",
        f"{record['pages_perplexity']['value']:.1f}" if "pages_perplexity" in record else "",
        _won_back(record, records),
        " + ".join(f"{n} x {record['batch']}" for n in record["steps"].values()) or "–",
        " + ".join(f"{share:.0%}" for share in shares.values()) or "–",
        f"{record['minutes']:.1f}",
        f"{_letter(machines.index(record['machine']))} {record.get('version') or ''}".strip(),
    ]


def _won_back(record: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Shares of nats and of log-perplexity, where the line's other ends are known."""
    shared = ("task", "general", "rows")
    same = [one for one in records if all(one[key] == record[key] for key in shared)]
    same.sort(key=lambda one: one["machine"] != record["machine"])  # its own machine's first
    dense = next((one for one in same if one["way"] == "dense"), None)
    pruned = [one for one in same if one["zeros"] == record["zeros"] and one["way"] == "one-shot"]
    if record["way"] in ("dense", "dense, finetune", "one-shot") or not (dense and pruned):
        return "–"

    def share(name: str, scale: Callable[[float], float]) -> str:
        if not all(name in one for one in (dense, pruned[0], record)):
            return ""
        low, high, now = (scale(one[name]["value"]) for one in (dense, pruned[0], record))
        return f"{(high - now) / (high - low):.0%}" if high > low else "no cost"

    found = share("nats_per_answer_token", float), *(share(n, math.log) for n in _TEXTS)
    return ", ".join(filter(None, found))


if __name__ == "__main__":
    main()
