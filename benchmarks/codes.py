"""What each storage loses at its bits per weight: by layer, and end to end with equal training.

Writes docs/measured/codes.md; rows that are known from an earlier run are only read.

    EDGEPRUNE_DATA=../shared/data python benchmarks/codes.py               # layer errors, 15 min
    EDGEPRUNE_DATA=../shared/data python benchmarks/codes.py --trained 60  # and training, an hour

Layer errors are those of rounding by GPTQ on the inputs of the dense model. Masked codes have the
mask of the default method, or one that is chosen with the codes. End to end, every storage gets the
same training: the blocks on their grid, the embedding in Q4_0.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch

from benchmarks.layers import layers
from benchmarks.scoring import scored
from edgeprune.engine.pruner import relative_error
from edgeprune.formats.packers import packed_name, packer
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.planning.types import WeightType
from edgeprune.pruning.fusion import FusedStatistics
from edgeprune.pruning.matrix import Pruning, prune_matrix
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.quantization.joint import pruned_for
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import cores, sentence
from edgeprune.support.files import read_json, sha256_json, write_json
from edgeprune.support.progress import Bars
from exporters.gguf.grids import GRIDS
from exporters.gguf.types import TYPES

_PAGE = Path("docs/measured/codes.md")
_WORK = Path("ablations/codes")


@dataclass(frozen=True)
class Stored:
    """A storage: a type of `TYPES`, and the share of zeros."""

    type: str
    zeros: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.type}, {self.zeros:.0%} zeros" if self.zeros else self.type

    @property
    def kind(self) -> WeightType:
        return TYPES[self.type]

    @property
    def bits(self) -> float:
        grid = self.kind.alphabet or GRIDS[self.kind.base]
        return grid.bits_per_weight(1 - self.zeros)


_STORED = [
    Stored("q8_0"), Stored("q8_0:6"), Stored("q8_0:5"), Stored("q5_0"), Stored("q4_0"),
    Stored("q4_0:3"), Stored("q4_0:3/64"), Stored("q4_0:2"), Stored("q4_0:2/64"),
    Stored("q4_0", 0.25), Stored("q4_0", 0.5), Stored("q4_0", 0.6),
    Stored("q4_0:3+mask", 0.33), Stored("q4_0:3+mask", 0.5), Stored("q4_0:3+mask/64", 0.5),
    Stored("q4_0:2+mask", 0.33), Stored("q4_0:2+mask/64", 0.33), Stored("q4_0:2+mask", 0.5),
    Stored("q4_0:2+mask/64", 0.5), Stored("q4_0:2+mask/64", 0.6), Stored("q4_0:1+mask/64", 0.5),
]  # fmt: skip
# Dense and masked codes of as many bits: which has less error, matrix by matrix.
_PAIRS = [
    (Stored("q4_0:3"), Stored("q4_0", 0.5)),
    (Stored("q4_0:2/64"), Stored("q4_0:2+mask/64", 0.5)),
]
# End to end, the first in the order of what they tell.
_TRAINED = [
    Stored("q4_0:3"), Stored("q4_0", 0.5), Stored("q4_0:2/64"), Stored("q4_0:2+mask/64", 0.5),
    Stored("q4_0"), Stored("q4_0:3/64"), Stored("q4_0:3+mask/64", 0.5),
    Stored("q4_0:2+mask/64", 0.33),
]  # fmt: skip
# Ways to train; all storages are trained in the first, some in the others, too.
_WAYS: dict[str, dict[str, Any]] = {
    "from GPTQ's rounding": {"training.grid_from": 0.0, "training.learn_scales": True},
    "on the grid from the first steps": {"training.grid_from": 0.05},
    "scales trained, too": {"training.grid_from": 0.05, "training.learn_scales": True},
}
_EVERY_WAY = (Stored("q4_0:3"),)


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--samples", default=24)
@click.option("--every", default=5, help="measure every n-th block")
@click.option("--trained", default=0.0, help="begin no new training after so many minutes")
@click.option("--steps", default=30, help="of each training, about three minutes")
@click.option("--rows", default=200, help="evaluation rows")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(
    task: str, samples: int, every: int, trained: float, steps: int, rows: int, out: Path
) -> None:
    torch.set_num_threads(cores())
    errors = _WORK / f"errors-{task}-{samples}-{every}.json"
    found = read_json(errors)
    if found is None:
        found = list(_errors(task, samples, every))
        write_json(errors, found)
    deadline, ends = time.monotonic() + 60 * trained, []
    for stored in _TRAINED:
        for way in ("", *_WAYS) if stored in _EVERY_WAY else ("", next(iter(_WAYS))):
            key = [stored.name, task, rows, way and [_WAYS[way], steps]]
            record = _WORK / f"{sha256_json(key)[:16]}.json"
            if not record.exists() and time.monotonic() > deadline:
                continue
            ends.append(_end_to_end(stored, task, rows, way, steps, record))
    out.write_text(_page(found, ends, task, samples, every, steps, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _errors(task: str, samples: int, every: int) -> Iterator[dict[str, Any]]:
    """Of each matrix: its name, how its inputs spread, and its output error by storage."""
    for index, name, dense, inputs in layers(task, samples, every):
        power = inputs.joint.second_moment.clamp_min(1e-12)
        errors, own_mask = _by_storage(dense, inputs)
        yield {
            "name": f"{index}.{name}", "spread": power.log().std().item(), "errors": errors,
            "own mask": own_mask,
        }  # fmt: skip


def _by_storage(
    dense: torch.Tensor, inputs: FusedStatistics
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors by storage, and of masked ones also with the mask of the method alone."""
    errors, own_mask, pruned, gram = {}, {}, {0.0: dense}, inputs.joint.gram
    for stored in _STORED:
        budget = Budget(UNSTRUCTURED, round(stored.zeros * dense.numel()))
        if stored.zeros not in pruned:
            pruned[stored.zeros] = prune_matrix(dense, inputs, Pruning("alps_fast"), budget)
        grid = stored.kind.alphabet or GRIDS[stored.kind.base]
        if dense.shape[1] % grid.block:
            continue

        def lost(weight: torch.Tensor, grid: Grid = grid) -> float:
            return relative_error(dense, round_to_grid(weight, gram, grid)[0], gram.matrix)

        weight = pruned[stored.zeros]
        errors[stored.name] = lost(weight)
        if grid.masked:
            own_mask[stored.name] = errors[stored.name]
            errors[stored.name] = lost(pruned_for(dense, weight, gram, grid, budget))
    return errors, own_mask


def _end_to_end(
    stored: Stored, task: str, rows: int, way: str, steps: int, record: Path
) -> dict[str, Any]:
    """Build in a storage, trained in a way or, if that is empty, not at all; score the file."""
    if known := read_json(record):
        return known
    values: dict[str, Any] = {
        "measurement.eval_rows": rows, "measurement.perplexity_tokens": 8192,
        "artifact.embedding_type": "q4_0", "artifact.rounding": "gptq",
        "pruning.sparsity": stored.zeros, "artifact.type": stored.type,
    }  # fmt: skip
    if way:
        values |= {"training.enabled": True, "training.steps": steps} | _WAYS[way]
    recipe = Recipe.of(values, task=task, general="wikitext2")
    job = open_job(recipe, Workspace(record.with_suffix(""), Bars()))
    plan = planner.plan(job)
    sparse = sparsify(job, plan)
    assert sparse.checkpoint
    path = record.with_suffix(".gguf")
    _, quality = scored(job, plan, *pruned_model(job, sparse.checkpoint), path)
    with Bars().stage("pack", path.stat().st_size) as stage:
        packer(path).pack(path, packed_name(path), stage.advance)
    training = sparse.training["finetune"] if sparse.training else {"steps": 0}
    shown = ("nats_per_answer_token", "accuracy", "general_perplexity")
    found = {
        "storage": stored.name, "bits": stored.bits, "way": way,
        "steps": training["steps"], "bytes": packed_name(path).stat().st_size,
        **{name: quality[name] for name in shown},
    }  # fmt: skip
    path.unlink()
    write_json(record, found)
    return found


def _page(
    errors: list[dict[str, Any]], ends: list[dict[str, Any]], task: str, samples: int, every: int,
    steps: int, rows: int,
) -> str:  # fmt: skip
    means, own_mask = (_means(errors, key) for key in ("errors", "own mask"))
    lines = [
        "# What codes and zeros lose, measured",
        "",
        "Written by `benchmarks/codes.py`. Bits of a weight in a packed file, scales and mask "
        "included. Layer error: `tr (ΔW H ΔWᵀ) / tr (W H Wᵀ)`, geometric mean over "
        f"{len(errors)} matrices of SmolLM2-135M-Instruct (every {every}th block), `H` from "
        f"{samples} × 512 tokens each of general text and of {task}; rounded by GPTQ with fitted "
        "scales, zeros by alps_fast before; with `+mask`, by the better of that mask and one that "
        "is chosen with the codes.",
        "",
        sentence(),
        "",
        "| storage | bits / weight | layer error | with the mask of alps_fast alone |",
        "| --- | --- | --- | --- |",
    ]
    for stored in sorted(_STORED, key=lambda one: -one.bits):
        if stored.name in means:
            alone = f"{own_mask[stored.name]:.4f}" if stored.name in own_mask else ""
            error = means[stored.name]
            lines.append(f"| {stored.name} | {stored.bits:.2f} | {error:.4f} | {alone} |")
    lines += ["", "## Dense or masked?", "", *_who_wins(errors)]
    if ends:
        lines += ["", "## End to end", "", *_trained_rows(ends, task, steps, rows)]
    return "\n".join([*lines, ""])


def _means(errors: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Geometric means over matrices, of storages that all of them have."""
    names = set.intersection(*(set(one[key]) for one in errors))
    return {name: math.exp(fmean(math.log(one[key][name]) for one in errors)) for name in names}


def _who_wins(errors: list[dict[str, Any]]) -> Iterator[str]:
    """By how the inputs of a matrix spread, which of two storages has less error."""
    yield (
        "Of two storages of as many bits, the ratio of their errors (below 1: masked codes have "
        "less), by the spread of a matrix's inputs, the standard deviation of ln E[x²] over its "
        "columns."
    )
    yield ""
    yield "| spread | matrices | " + " | ".join(f"{b.name} / {a.name}" for a, b in _PAIRS) + " |"
    yield "| --- |" + " --- |" * (1 + len(_PAIRS))
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in errors:
        groups[math.floor(2 * one["spread"])].append(one)
    for half, members in sorted(groups.items()):
        ratios = [
            math.exp(fmean(math.log(m["errors"][b.name] / m["errors"][a.name]) for m in members))
            for a, b in _PAIRS
        ]
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        yield f"| {half / 2:.1f}-{half / 2 + 0.5:.1f} | {len(members)} | {cells} |"


def _trained_rows(ends: list[dict[str, Any]], task: str, steps: int, rows: int) -> Iterator[str]:
    yield (
        f"The same model for {task}, embedding in Q4_0; {rows} rows, WikiText-2. Before training, "
        f"and after {steps} steps of two sequences of 512 tokens, the same for everyone; the "
        "embedding is trained on its grid with the blocks."
    )
    yield ""
    headings = ("storage", "bits / weight", "packed MB", "training", "nats / answer token",
                "accuracy", "perplexity")  # fmt: skip
    yield f"| {' | '.join(headings)} |"
    yield "|" + " --- |" * len(headings)
    for one in ends:
        nats, accuracy, text = (
            one[name] for name in ("nats_per_answer_token", "accuracy", "general_perplexity")
        )
        yield (
            f"| {one['storage']} | {one['bits']:.2f} | {one['bytes'] / 1e6:.1f} "
            f"| {one['way'] or 'none'} "
            f"| {nats['value']:.3f} ({nats['low']:.3f}-{nats['high']:.3f}) "
            f"| {accuracy['value']:.3f} | {text['value']:.1f} |"
        )


if __name__ == "__main__":
    main()
