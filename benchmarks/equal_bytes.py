"""The chosen file against the best dense ones of its size, all trained alike.

    EDGEPRUNE_DATA=../shared/data python benchmarks/equal_bytes.py --task arc_easy --minutes 90
    ... --task sciq --model gemma-3-270m-q4_k_m.gguf --minutes 40

Every model gets the same steps on the same rows: fine-tuning on the task's answers, with general
text beside them. Writes a page of the model and the task, equal-bytes-MODEL-TASK.md and .svg in
docs/measured, with what was measured; files that are known from an earlier run are only read.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.equal_bytes_page import nats, on_front, page, plot
from benchmarks.scoring import scored
from edgeprune.formats.packers import packed_name, packer
from edgeprune.pipeline import candidates, choose, planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import Job, dense_model, open_job
from edgeprune.pipeline.sparsify import Sparse, sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import cores, sentence
from edgeprune.support.errors import EdgepruneError, UsageError
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars
from runtime_tests.bench import Lengths, bench

_PAGES, _WORK = Path("docs/measured"), Path("ablations/equal-bytes")
_TASKS = {"arc_easy": 30, "sciq": 15, "medqa": 15}  # steps of each training
_LENGTH, _BATCH = 256, 8
_TRAINING: dict[str, Any] = {
    "training.enabled": True, "training.batch": _BATCH, "training.task_share": 0.5,
    "training.grid_from": 0.05, "training.learn_scales": True, "training.embedding": False,
    "training.learning_rate": 6e-4, "data.samples": 24,
}  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """One training, and the files that are made of it.

    Attributes:
        name: of the model.
        settings: of its recipe.
        files: pairs of a type and the embedding's; empty: as the recipe says.
        ours: whether its storages are chosen.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    ours: bool = False


def _in(kind: str, embedding: str) -> Contender:
    """A model in one storage on its grid, by GPTQ and training."""
    words = "" if embedding == "auto" else f", embedding {embedding}"
    return Contender(
        f"{kind}{words}", {"artifact.type": kind, "artifact.embedding_type": embedding}
    )


def _chosen(size: str, runtime: str = "edgeprune") -> Contender:
    words = f"chosen, {size}" + (", for stock llama.cpp" if runtime == "stock" else "")
    return Contender(words, {"goal.size": size, "goal.runtime": runtime}, ours=True)


# Types without a grid of ours, quantised by ggml with the importances of the calibration data.
_NEAREST = ("iq4_xs", "q3_k_m", "iq3_s")  # in size, to what is chosen
_OTHERS = ("q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "iq4_nl", "q3_k", "q2_k")


def _dense(name: str, *files: tuple[str, str]) -> Contender:
    return Contender(name, {"artifact.type": "q8_0", "artifact.rounding": "nearest"}, files)


_DENSE = _dense("dense", ("q8_0", "auto"), *product(_NEAREST, ("q5_0", "q4_0")))
_MORE_DENSE = _dense(
    "dense, more types", *product(_NEAREST, ("auto",)), *product(_OTHERS, ("auto", "q5_0", "q4_0")),
    *product(("q8_0",), ("q5_0", "q4_0")),
)  # fmt: skip
_UNTRAINED = Contender("untrained", {"training.enabled": False}, (("q8_0", "auto"),
                                                                   ("q4_0", "q4_0")))  # fmt: skip
# In the order of what they tell.
_CONTENDERS = [
    _UNTRAINED, _in("q4_0", "q4_0"), _chosen("70MB"), _chosen("64.2MB"), _in("q4_0:3", "q4_0"),
    _chosen("52MB"), _DENSE, _MORE_DENSE, _chosen("77.5MB"), _chosen("58MB"),
    _in("q4_0", "auto"), _chosen("85MB"), _in("q4_0:2/64", "q4_0"), _chosen("47.6MB"),
    _chosen("84MB", "stock"), _in("q5_0", "q4_0"), _in("q4_0", "q5_0"), _chosen("92MB", "stock"),
]  # fmt: skip
# Of a model with many words: 0.9, 0.83 and 1 times the bytes of Q4_0.
_OF_GEMMA = [_UNTRAINED, _in("q4_0", "q4_0"), _chosen("142MB"), _in("q4_0:3", "q4_0"),
             _chosen("131MB"), _chosen("157MB")]  # fmt: skip


@click.command()
@click.option("--model", default="smollm2-135m", help="as `edgeprune build` takes it")
@click.option("--task", type=click.Choice(list(_TASKS)), default="arc_easy")
@click.option("--minutes", default=0.0, help="begin no new training or file after so many minutes")
@click.option("--rows", default=200, help="evaluation rows")
@click.option("--processes", default=0, help="fresh ones of each file, for timings; 0: none")
@click.option("--only", multiple=True, help="begin these alone: 'dense', 'chosen, 70MB'")
@click.option("--steps", default=0, help="of each training; by default the task's")
def main(
    model: str,
    task: str,
    minutes: float,
    rows: int,
    processes: int,
    only: tuple[str, ...],
    steps: int,
) -> None:
    deadline, records = time.monotonic() + 60 * minutes, list[dict[str, Any]]()
    name, steps = Path(model).stem, steps or _TASKS[task]
    folder = _WORK / f"{name}-{task}-{steps}-{rows}"
    for contender in _OF_GEMMA if "gemma" in name else _CONTENDERS:
        recipe = _recipe(contender, task, steps, rows, model)
        asked = not only or contender.name in only
        records += _records(contender, recipe, folder, deadline if asked else 0)
    _add_speeds(records, folder / "speeds.json", processes)
    about = {"model": name, "steps": steps, "rows": rows, "tokens": _BATCH * _LENGTH,
             "machine": sentence()}  # fmt: skip
    out = _PAGES / f"equal-bytes-{name.partition('-q')[0]}-{task}.md"
    out.write_text(page({task: records}, about, out.with_suffix(".svg").name), encoding="utf-8")
    out.with_suffix(".svg").write_text(plot({task: records}), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _records(
    contender: Contender, recipe: Recipe, folder: Path, deadline: float
) -> list[dict[str, Any]]:
    """Read what a contender's files have scored; until the deadline, make and score others."""
    files = contender.files or (("", ""),)
    paths = {f: folder / f"{'-'.join([contender.name, *f]).replace('/', '_')}.json" for f in files}
    missing = [path for path in paths.values() if not path.exists()]
    if missing and time.monotonic() < deadline:
        job = open_job(recipe, Workspace(folder / "run", Bars()))
        job, choice = choose.settle(job)
        sparse = sparsify(job, planner.plan(job))
        for (kind, embedding), path in paths.items():
            if path in missing and time.monotonic() < deadline:
                one = _of_type(job, kind, embedding) if kind else job
                about = {"name": contender.name, "ours": contender.ours, "type": kind,
                         "embedding": embedding, "trained": recipe.training.enabled,
                         "predicted": choice.loss if choice else _predicted(one),
                         "predicted_bytes": choice.bytes if choice else None}  # fmt: skip
                write_json(path, about | _scored(one, sparse, path))
    return [record for path in paths.values() if (record := read_json(path)) and "bytes" in record]


def _recipe(
    contender: Contender, task: str, steps: int, rows: int, model: str = "smollm2-135m"
) -> Recipe:
    measured = {"measurement.eval_rows": rows, "measurement.perplexity_tokens": 8192}
    training = _TRAINING | {
        "training.steps": steps, "data.length": _LENGTH, "data.chat": "none",
    }  # fmt: skip
    if contender.settings.get("training.enabled") is False:
        training = {"artifact.rounding": "nearest", "artifact.type": "q8_0"}
    plain = {} if contender.ours else {"pruning.sparsity": 0.0}
    return decided(
        Recipe.of(
            measured | training | plain | contender.settings,
            task=task,
            general="wikitext2",
            model=model,
        )
    )


def _of_type(job: Job, kind: str, embedding: str) -> Job:
    return job.changed({"artifact.embedding_type": embedding}).in_type(kind)


def _predicted(job: Job) -> float | None:
    """Predict what a file loses that has one storage in all its blocks."""
    kind, embedding = job.recipe.artifact.type, job.recipe.artifact.embedding_type
    chooses = job.changed({"goal.runtime": "edgeprune", "artifact.embedding_type": "auto"})
    losses = candidates.losses_of(chooses, candidates.candidates(chooses))
    names = {row.name: kind if row.block is not None else embedding for row in job.file.tensors}
    found = [losses[name].get("q8_0" if way == "auto" else way)
             for name, way in names.items() if name in losses]  # fmt: skip
    return None if None in found else sum(one for one in found if one is not None)


def _scored(job: Job, sparse: Sparse, record: Path) -> dict[str, Any]:
    """Export, score and pack; a type that the model cannot have gives an empty record."""
    model, metadata = dense_model(job.checkpoint), None
    if sparse.checkpoint:
        model, metadata = pruned_model(job, sparse.checkpoint)
    path = record.with_suffix(".gguf")
    try:
        _, quality = scored(job, planner.plan(job), model, metadata, path)
    except EdgepruneError as error:
        click.echo(f"{record.stem}: {error}", err=True)
        return {}
    shipped = path
    if job.recipe.goal.runtime == "edgeprune":
        try:
            with Bars().stage("pack", path.stat().st_size) as stage:
                packer(path).pack(path, packed_name(path), stage.advance)
            shipped = packed_name(path)
            path.unlink()
        except UsageError:  # there is nothing to pack
            pass
    measures = ("nats_per_answer_token", "accuracy", "general_perplexity", "answers")
    return {name: quality[name] for name in measures} | {
        "path": str(shipped), "bytes": shipped.stat().st_size
    }  # fmt: skip


def _add_speeds(records: list[dict[str, Any]], known: Path, processes: int) -> None:
    """Add speeds of chosen files and of those on the front, timed in turns."""
    speeds = read_json(known) or {}
    wanted = [one for one in records if one["ours"] or on_front(one, records, nats)]
    missing = {one["path"]: Path(one["path"]) for one in wanted if one["path"] not in speeds}
    if processes and missing:
        lengths = Lengths(threads=(cores(),), processes=processes, first_token=False)
        for row in bench(missing, lengths, partial(Bars().stage))["rows"]:
            if row["unit"] == "tokens/s" or row["test"] == "peak_memory":
                speeds.setdefault(row["artifact"], {})[row["test"]] = row["samples"]
        write_json(known, speeds)
    for one in records:
        one["speeds"] = speeds.get(one["path"], {})


if __name__ == "__main__":
    main()
