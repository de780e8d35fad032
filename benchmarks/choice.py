"""How far the compiler's estimates can be trusted: writes docs/measured/choice.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/choice.py          # 8 minutes
    EDGEPRUNE_DATA=../shared/data python benchmarks/choice.py --times  # and speeds, 6 more, alone

What was measured before is only read.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.layers import layers
from edgeprune.engine.pruner import relative_error
from edgeprune.engine.sensitivity.storages import nearest, stored_errors
from edgeprune.engine.sensitivity.trials import positions
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.packers import packed_name, packer
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.models.loading import load_model
from edgeprune.pipeline import candidates, choose, costs, planner
from edgeprune.pipeline.export import quantized_by
from edgeprune.pipeline.job import Job, dense_model, open_job
from edgeprune.pipeline.streams import streams
from edgeprune.pipeline.workspace import Workspace
from edgeprune.planning.patterns import Budget
from edgeprune.planning.tensors import Storage, TensorPlan
from edgeprune.pruning.fusion import FusedStatistics
from edgeprune.pruning.matrix import Pruning, prune_matrix
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.quantization.joint import pruned_for
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import cores, sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars
from exporters.base import Model
from exporters.gguf.grids import GRIDS
from exporters.gguf.types import CHOICES, TYPES
from runtime_tests.bench import Lengths, bench
from runtime_tests.paired import by_process

_PAGE, _WORK = Path("docs/measured/choice.md"), Path("ablations/choice")
_SIZES = ("48MB", "52MB", "58MB", "64MB", "70MB", "77MB", "85MB", "95MB")
_UNIFORM = ("q4_0", "q4_0:3", "q4_0:3/64", "q4_0:2/64")
_SEEN, _HELD_OUT = 8, slice(8, 12)  # sequences of each stream; estimates see fewer
_TIMED = ("50MB", "58MB", "66MB", "75MB", "90MB")
_TOKENS = 64

Plan = Mapping[str, TensorPlan]


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--times", is_flag=True, help="measure speeds, too")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, times: bool, out: Path) -> None:
    torch.set_num_threads(cores())
    errors = _known("errors", lambda: list(_errors(task)))
    moved = _known(f"moved-{task}", lambda: list(_moved(task)))
    speeds = _known(f"speeds-{task}", lambda: list(_speeds(task)), times) or []
    out.write_text("\n".join(_page(task, errors, moved, speeds)), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _known(name: str, make: Callable[[], Any], may_run: bool = True) -> Any:
    found = read_json(_WORK / f"{name}.json")
    if found is None and may_run:
        found = make()
        write_json(_WORK / f"{name}.json", found)
    return found


def _errors(task: str) -> Iterator[dict[str, Any]]:
    """Output errors of matrices, by storage: as estimated, and as a build makes it."""
    for index, name, dense, inputs in layers(task, _SEEN, 10):
        gram = inputs.joint.gram
        rows = {
            way.name: way.of(TensorPlan(name, name, tuple(dense.shape), Storage("", 0, grid)))
            for way in CHOICES["edgeprune"]
            if (grid := TYPES[way.type].alphabet or GRIDS[TYPES[way.type].base])
            and dense.shape[1] % grid.block == 0
        }
        whole = ((dense @ gram.matrix) * dense).sum().item()
        estimated = stored_errors(dense, rows, gram)
        yield {
            "name": f"{index}.{name}",
            "errors": {
                way: [
                    estimated[way].sum().item() / whole,
                    relative_error(dense, _built(dense, row, inputs), gram.matrix),
                ]
                for way, row in rows.items()
            },
        }


def _built(dense: Tensor, row: TensorPlan, inputs: FusedStatistics) -> Tensor:
    """Prune and round a matrix as a build does."""
    grid, gram, weight = row.storage.grid, inputs.joint.gram, dense
    assert grid
    if row.zeros:
        budget = Budget(row.pattern, row.zeros)
        weight = prune_matrix(dense, inputs, Pruning("alps_fast"), budget)
        if grid.masked:
            weight = pruned_for(dense, weight, gram, grid, budget)
    return round_to_grid(weight, gram, grid)[0]


def _job(task: str, size: str) -> Job:
    recipe = decided(Recipe.of({"data.chat": "none"}, task=task, general="wikitext2", size=size))
    return open_job(recipe, Workspace(_WORK / "run", Bars()))


def _plans(task: str) -> Iterator[tuple[str, Plan, float]]:
    """Chosen plans and uniform ones, each with what it is predicted to lose."""
    job = _job(task, "90MB")
    rows = candidates.candidates(job)
    losses = candidates.losses_of(job, rows)
    for way in _UNIFORM:
        chosen = {
            n: "q4_0" if next(iter(of.values())).block is None else way for n, of in rows.items()
        }
        lost = sum(losses[name][one] for name, one in chosen.items())
        yield way, {name: rows[name][one] for name, one in chosen.items()}, lost
    for size in _SIZES:
        settled, facts = choose.settle(_job(task, size))
        assert facts
        plan = planner.plan(settled).tensors
        chosen = {
            name: next(row for row in of.values() if _same(row, plan[name]))
            for name, of in rows.items()
        }
        yield size, chosen, facts.loss


def _moved(task: str) -> Iterator[dict[str, Any]]:
    """Predicted divergences, and those of the model with all its matrices in their storages."""
    job = _job(task, "90MB")
    model = load_model(job.checkpoint)
    held_out = {n: stream.part(_HELD_OUT) for n, stream in streams(job, _HELD_OUT.stop).items()}
    dense = {name: _predictions(model, stream) for name, stream in held_out.items()}
    own = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    plans = {label: (plan, predicted) for label, plan, predicted in _plans(task)}
    built: dict[tuple[str, str, int], Tensor] = {}
    for index, name, weight, inputs in layers(task, _SEEN, 1):
        full = f"model.layers.{index}.{name}"
        for plan, _ in plans.values():
            row = plan[full]
            if (key := _key(row)) not in built:
                built[key] = _built(weight, row, inputs).bfloat16()
    for label, (plan, predicted) in plans.items():
        _put(job, own, plan, built)
        measured = {
            name: _divergence(dense[name], _predictions(model, stream))
            for name, stream in held_out.items()
        }
        click.echo(f"{label}: predicted {predicted:.3f}, {measured}", err=True)
        yield {"plan": label, "predicted": predicted, **measured}


def _put(
    job: Job,
    own: Mapping[str, torch.nn.Parameter],
    plan: Plan,
    built: Mapping[tuple[str, str, int], Tensor],
) -> None:
    """Put a model's matrices into the storages of a plan, its embedding to nearest."""
    for name, row in plan.items():
        if row.block is not None:
            own[name].data = built[_key(row)].float()
        else:
            weight = job.checkpoint.weights().read(name).float()
            own[name].data = nearest(weight, row, torch.ones(weight.shape[1]))


def _key(row: TensorPlan) -> tuple[str, str, int]:
    return row.name, row.storage.name + row.pattern.name, row.zeros


@torch.no_grad()
def _predictions(model: Any, stream: Any) -> Tensor:
    found, (rows, columns) = [], positions(stream)
    for row, ids in enumerate(stream.tokens.split(1)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[0, columns[rows == row]]
        found.append(logits.float().log_softmax(-1))
    return torch.cat(found)


def _divergence(dense: Tensor, other: Tensor) -> float:
    return (dense.exp() * (dense - other)).sum(-1).mean().item()


def _speeds(task: str) -> Iterator[dict[str, Any]]:
    """Decoding speeds of chosen plans: predicted from whole files in one storage, and measured."""
    job = _job(task, "90MB")
    rows = candidates.candidates(job)
    times = costs.seconds_a_token(job, rows)
    paths, predicted = {}, {}
    for size in _TIMED:
        settled, _ = choose.settle(_job(task, size))
        chosen = planner.plan(settled).tensors
        ways = {
            name: next(way for way, row in of.items() if _same(row, chosen[name]))
            for name, of in rows.items()
        }
        predicted[size] = 1 / sum(times[name][way] for name, way in ways.items())
        paths[size] = _file(settled, _WORK / f"{size}.gguf")
    lengths = Lengths(
        decode=(_TOKENS,), prefill=(), threads=(cores(),), processes=4, first_token=False
    )
    for row in bench(paths, lengths, Bars().stage)["rows"]:
        if row["test"] == f"tg{_TOKENS}":
            samples = by_process(row["samples"])
            size = row["artifact"]
            measured = {"measured": float(np.mean(samples)), "spread": float(np.std(samples))}
            yield {"plan": size, "predicted": predicted[size]} | measured
    shutil.rmtree(job.run.folder, ignore_errors=True)


def _same(one: TensorPlan, other: TensorPlan) -> bool:
    return (one.storage.name, one.zeros, one.pattern) == (
        other.storage.name, other.zeros, other.pattern,
    )  # fmt: skip


def _file(job: Job, path: Path) -> Path:
    """Write a chosen plan's packed file, its zeros the smallest weights."""
    plan = planner.plan(job)
    dense, zeroed = job.checkpoint.weights(), {}
    for row in plan.tensors.values():
        if row.zeros:
            weight = dense.read(row.name)
            zeroed[row.name] = weight * Budget(row.pattern, row.zeros).keep(weight.abs().float())
    own = path.with_suffix(".safetensors")
    own.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(own, zeroed)
    base = dense_model(job.checkpoint)
    weights = Weights([*job.checkpoint.weight_files, own])
    model = Model(base.folder, weights, frozenset(zeroed), base.gguf)
    metadata = SparsityMetadata(
        "unstructured", 0.5, "magnitude", "mix", job.recipe.data.task, {}, job.checkpoint.sha256
    )
    with Bars().stage("export", job.file.steps) as stage:
        job.file.export(model, plan.without_grids(), path, metadata, quantized_by(), stage)
    with Bars().stage("pack", path.stat().st_size) as stage:
        packer(path).pack(path, packed_name(path), stage.advance)
    return packed_name(path)


def _page(
    task: str,
    errors: list[dict[str, Any]],
    moved: list[dict[str, Any]],
    speeds: list[dict[str, Any]],
) -> Iterator[str]:
    yield "# How far the compiler's estimates can be trusted"
    yield ""
    yield (
        f"Written by `benchmarks/choice.py`. SmolLM2-135M-Instruct, {task} and WikiText-2. "
        f"{sentence()}"
    )
    yield ""
    yield "## One matrix"
    yield ""
    yield (
        "Relative output errors of 21 matrices, geometric means: what GPTQ is estimated to leave, "
        "without running it, and what alps_fast and GPTQ leave in a build. What counts is that "
        "their ratio is about the same for all storages and matrices: then none is preferred."
    )
    yield ""
    yield "| storage | estimated | built | built / estimated | spread of its logarithm |"
    yield "| --- | --- | --- | --- | --- |"
    for way in CHOICES["edgeprune"]:
        pairs = [one["errors"][way.name] for one in errors if way.name in one["errors"]]
        logs = [math.log(full / quick) for quick, full in pairs]
        quick, full = (math.exp(fmean(math.log(p[side]) for p in pairs)) for side in (0, 1))
        yield (
            f"| {way.name} | {quick:.5f} | {full:.5f} | {math.exp(fmean(logs)):.2f} "
            f"| {stdev(logs):.2f} |"
        )
    yield ""
    yield "## The whole model, before training"
    yield ""
    measured = [(one["general"] + one["task"]) / 2 for one in moved]
    rank = spearmanr([one["predicted"] for one in moved], measured).statistic
    yield (
        "Divergence from the dense model in nats a token: predicted, as the sum over tensors, and "
        "of the model with all its matrices pruned and rounded as in a build (the embedding to "
        "nearest), on "
        f"sequences that no estimate has seen. Rank correlation over {len(moved)} plans: "
        f"**{rank:.2f}**."
    )
    yield ""
    yield "| plan | predicted | measured | on WikiText-2 | on answers |"
    yield "| --- | --- | --- | --- | --- |"
    for one, both in sorted(zip(moved, measured, strict=True), key=lambda pair: pair[1]):
        yield (
            f"| {one['plan']} | {one['predicted']:.3f} | {both:.3f} | {one['general']:.3f} "
            f"| {one['task']:.3f} |"
        )
    yield ""
    if speeds:
        yield "## Decoding"
        yield ""
        worst = max(abs(one["measured"] / one["predicted"] - 1) for one in speeds)
        yield (
            "Tokens/s: predicted from the dense model timed whole in each storage, and of chosen "
            f"packed files in 4 processes that took turns; within {worst:.0%}."
        )
        yield ""
        yield "| plan | predicted | measured |"
        yield "| --- | --- | --- |"
        for one in speeds:
            yield (
                f"| {one['plan']} | {one['predicted']:.0f} | {one['measured']:.0f} "
                f"± {one['spread']:.0f} |"
            )
        yield ""


if __name__ == "__main__":
    main()
