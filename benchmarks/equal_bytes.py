"""Is sparsity worth shipping? Sparse files against dense quantised ones of the same size.

    EDGEPRUNE_DATA=../shared/data python benchmarks/equal_bytes.py --budget 5m --minutes 90

Every model, sparse or dense, gets the same training on the same rows for the same time: fine-tuning
on the task's answers, with general text beside them. Writes docs/measured/equal-bytes.md
and .svg with what was measured; rows that are known from an earlier run are only read.
"""

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.scoring import scored
from edgeprune.engine import PrunedCheckpoint
from edgeprune.formats.packers import packed_name, packer
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import Job, open_job
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe
from edgeprune.recipe.sections import Training
from edgeprune.report import plots
from edgeprune.support.environment import cores, sentence
from edgeprune.support.errors import EdgepruneError
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Bars
from runtime_tests.bench import Lengths, bench
from runtime_tests.paired import by_process

_PAGE = Path("docs/measured/equal-bytes.md")
_WORK = Path("ablations/equal-bytes")
_HEADINGS = (
    "model", "type", "MB", "steps", "nats / answer token", "accuracy", "general perplexity",
    "decode, tokens/s", "prefill, tokens/s",
)  # fmt: skip
# One training each: zeros, whether the last steps train on a 4-bit grid, and the types it ends in.
# Types without a grid of ours are quantised by ggml with the importances of the calibration data.
_TRAININGS: list[tuple[float, str, list[str]]] = [
    (0.0, "q8_0", ["q8_0", "q5_k_m", "q4_k_m", "q3_k_m", "iq4_xs", "q3_k", "q2_k", "iq3_s"]),
    (0.5, "q4_0", ["q4_0"]),
    (0.5, "q8_0", ["q8_0"]),
    (0.0, "q4_0", ["q4_0"]),
    (0.6, "q4_0", ["q4_0"]),
    (0.7, "q4_0", ["q4_0"]),
    (0.6, "q8_0", ["q8_0"]),
    (0.7, "q8_0", ["q8_0"]),
]


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--minutes", default=90.0, help="begin no new training after so many minutes")
@click.option("--budget", default="5m", help="of each training")
@click.option("--rows", default=150, help="evaluation rows")
@click.option("--processes", default=5, help="fresh ones of each file, for the timings")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, minutes: float, budget: str, rows: int, processes: int, out: Path) -> None:
    deadline = time.monotonic() + 60 * minutes
    folder = _WORK / f"{task}-{budget}"
    records: list[dict[str, Any]] = []
    for amount, kind, types in _TRAININGS:
        if time.monotonic() > deadline:
            break
        records += _trained(_recipe(task, amount, kind, budget, rows), types, folder)
    speeds = _speeds([Path(record["path"]) for record in records], processes)
    out.write_text(_page(records, speeds, task, budget, rows, processes, out), encoding="utf-8")
    out.with_suffix(".svg").write_text(_plot(records), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _recipe(task: str, amount: float, kind: str, budget: str, rows: int) -> Recipe:
    return Recipe.of(
        {"measurement.eval_rows": rows, "measurement.perplexity_tokens": 6144,
         "artifact.rounding": "gptq" if kind == "q4_0" else "auto"},
        task=task, general="wikitext2", sparsity=amount, type=kind, recover=True,
        recover_budget=budget,
    )  # fmt: skip


def _trained(recipe: Recipe, types: list[str], folder: Path) -> list[dict[str, Any]]:
    """Train once, write each type, score it; what is known is only read."""
    digest = sha256_json(recipe.model_dump())[:8]
    name = f"{recipe.pruning.sparsity:g}-{recipe.artifact.type}-{digest}"
    known = {kind: read_json(folder / f"{name}-{kind}.json") for kind in types}
    if None not in known.values():
        return [record for record in known.values() if record]  # an empty one could not be written
    job = open_job(recipe, Workspace(folder / name, Bars()))
    sparse = sparsify(job, planner.plan(job))
    assert sparse.checkpoint
    assert sparse.training
    steps = sparse.training["finetune"]["steps"]
    found = []
    for kind in types:
        try:
            path = folder / f"{name}-{kind}.gguf"
            record = _written(job.in_type(kind), sparse.checkpoint, path) | {"steps": steps}
        except EdgepruneError as error:
            click.echo(f"{name} {kind}: {error}", err=True)
            write_json(folder / f"{name}-{kind}.json", {})
            continue
        write_json(folder / f"{name}-{kind}.json", record)
        found.append(record)
    shutil.rmtree(job.run.folder)
    return found


def _written(job: Job, checkpoint: PrunedCheckpoint, path: Path) -> dict[str, Any]:
    sparsity, kind = job.recipe.pruning.sparsity, job.recipe.artifact.type
    _, quality = scored(job, planner.plan(job), *pruned_model(job, checkpoint), path)
    if sparsity:
        with Bars().stage("pack", path.stat().st_size) as stage:
            packer(path).pack(path, packed_name(path), stage.advance)
        path.unlink()
        path = packed_name(path)
    shown = ("nats_per_answer_token", "accuracy", "general_perplexity")
    return {
        "sparsity": sparsity, "type": kind, "path": str(path),
        "bytes": path.stat().st_size, **{name: quality[name] for name in shown},
    }  # fmt: skip


def _speeds(paths: list[Path], processes: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and deviation of each test by file; all take turns."""
    lengths = Lengths(threads=(cores(),), processes=processes, first_token=False)
    speeds: dict[str, dict[str, tuple[float, float]]] = {}
    for row in bench({str(path): path for path in paths}, lengths, Bars().stage)["rows"]:
        if row["unit"] == "tokens/s":
            found = by_process(row["samples"]).tolist()
            ends = statistics.mean(found), statistics.stdev(found)
            speeds.setdefault(row["artifact"], {})[row["test"]] = ends
    return speeds


def _on_front(record: dict[str, Any], records: list[dict[str, Any]], measure: str) -> bool:
    """Whether no other file is smaller and as good."""
    return not any(
        other["bytes"] < record["bytes"] and other[measure]["value"] <= record[measure]["value"]
        for other in records
    )


def _label(record: dict[str, Any]) -> str:
    return f"{record['sparsity']:.0%}" if record["sparsity"] else "dense"


def _page(
    records: list[dict[str, Any]],
    speeds: dict[str, dict[str, tuple[float, float]]],
    task: str,
    budget: str,
    rows: int,
    processes: int,
    out: Path,
) -> str:
    lines = [
        "# Sparse or dense, at equal bytes",
        "",
        f"Written by `benchmarks/equal_bytes.py`. SmolLM2-135M-Instruct on {task}; every model was "
        f"trained for {budget} on the same rows: fine-tuned on the task's answers, "
        f"{Training().task_share:.0%} of the sequences the task's, "
        f"{Training().batch} a step, general text learnt half from the dense "
        "model's predictions and half from its own tokens. Sparse ones "
        "were pruned before it (alps_fast, mix) and are packed; Q4_0 files, "
        "sparse and dense, are trained on their grid in the last 40 % of "
        "the steps; types without a grid are quantised by ggml with the importances of the "
        "calibration data. SmolLM2's rows of 576 do not divide by 256: as in llama.cpp, K and IQ "
        "types give way to larger ones in most tensors. Bytes are those of the file. "
        f"{rows} evaluation rows with 95 % intervals over them; 6,144 tokens of WikiText-2; speeds "
        f"of {processes} fresh processes of each that took turns, dense files in stock llama.cpp, "
        "sparse ones with edgeprune's kernels. **Bold**: no smaller file is as good at the task. "
        "In the plot, filled marks are sparse.",
        "",
        sentence(),
        "",
        f"![Bytes against task loss and general perplexity]({out.with_suffix('.svg').name})",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + " --- |" * len(_HEADINGS),
    ]
    for record in sorted(records, key=lambda one: one["bytes"]):
        nats, accuracy = record["nats_per_answer_token"], record["accuracy"]
        best = _on_front(record, records, "nats_per_answer_token")
        label = f"**{_label(record)}**" if best else _label(record)
        timed = speeds[record["path"]]
        cells = [
            label,
            record["type"],
            f"{record['bytes'] / 1e6:.1f}",
            str(record["steps"]),
            f"{nats['value']:.3f} ({nats['low']:.3f}-{nats['high']:.3f})",
            f"{accuracy['value']:.3f}",
            f"{record['general_perplexity']['value']:.1f}",
            "{:.1f} ± {:.1f}".format(*timed["tg64"]),
            "{:.0f} ± {:.0f}".format(*timed["pp256"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _plot(records: list[dict[str, Any]]) -> str:
    panels = []
    for measure, words in (
        ("nats_per_answer_token", "nats / answer token"),
        ("general_perplexity", "general perplexity"),
    ):
        marks = [
            plots.Mark(
                (f"{_label(r)} " if r["sparsity"] else "") + r["type"],
                r["bytes"] / 1e6, r[measure]["value"],
                not r["sparsity"],
                _on_front(r, records, measure),
            )
            for r in records
        ]  # fmt: skip
        panels.append(("file, MB", words, marks))
    return plots.pareto(*panels)


if __name__ == "__main__":
    main()
