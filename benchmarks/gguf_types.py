"""What each GGUF type does to zeros and to quality, and what rounding with data wins.

    EDGEPRUNE_DATA=../shared/data python benchmarks/gguf_types.py

SmolLM2-135M, dense and pruned to 50 % by the default method, exported in every type; what was
measured before is only read. Writes docs/measured/gguf.md.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from gguf import GGMLQuantizationType, quants

from benchmarks.scoring import scored
from edgeprune.data.loading import Data
from edgeprune.engine import PrunedCheckpoint
from edgeprune.formats.gguf import packed as packed_file
from edgeprune.formats.weights import Weights
from edgeprune.pipeline import planner
from edgeprune.pipeline.export import pruned_model
from edgeprune.pipeline.job import Job, dense_model, open_job, rows_for
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars
from exporters.gguf.ggml import quantize
from exporters.gguf.mixes import fitting
from exporters.gguf.types import TYPES

_WORK = Path("ablations/gguf-types")
# What is scored, the most telling first, so that a run cut short still gives a page.
_ROWS = [
    *(("q4_0", how) for how in ("dense", "dense, GPTQ", "50 %", "50 %, GPTQ")),
    *(("q8_0", how) for how in ("dense", "50 %")),
    *((name, how) for name in ("q4_k_m", "z4_m") for how in ("dense", "50 %")),
    ("z4_m", "50 %, GPTQ"),
    ("q4_0", "50 %, importance"),
    *((name, "50 %") for name in ("q5_0", "q6_k", "q3_k_m", "z3_m", "mxfp4", "f16")),
    *((name, "dense") for name in ("q5_0", "q3_k_m", "z3_m", "mxfp4", "f16")),
    *((name, "50 %, GPTQ") for name in ("q5_0", "q8_0")),
]


@click.command()
@click.option("--minutes", default=60.0, help="begin no new row after so many minutes")
@click.option("--rows", default=150)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/gguf.md"))
def main(minutes: float, rows: int, out: Path) -> None:
    measured = {"eval_rows": rows, "perplexity_tokens": 6144}
    base = Recipe.of(
        {"measurement": measured, "artifact.rounding": "nearest"},
        task="arc_easy", general="wikitext2", allow_lossy_zeros=True,
    )  # fmt: skip
    data = rows_for(base)
    deadline = time.monotonic() + 60 * minutes
    found = {}
    for name, what in _ROWS:
        record = read_json(_WORK / f"{name}-{what}.json")
        if record is None and time.monotonic() < deadline:
            record = _score(_job(base, name, what, data), what)
            write_json(_WORK / f"{name}-{what}.json", record)
        if record:
            found[name, what] = record
    plain = _job(base, base.artifact.type, "50 %", data)
    pruned = sparsify(plain, planner.plan(plain)).checkpoint
    assert pruned
    out.write_text(_page(_zeros(pruned), found, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _job(base: Recipe, kind: str, what: str, data: Data) -> Job:
    """The build of a row; the pruning of those that round to nearest is shared."""
    sparsity, fed = 0.0 if what.startswith("dense") else 0.5, what.endswith("GPTQ")
    recipe = base.changed(
        {
            "artifact.type": kind,
            "artifact.rounding": "gptq" if fed else "nearest",
            "pruning.sparsity": sparsity,
        }
    )
    folder = _WORK / (kind if fed else "plain") / str(sparsity)
    return open_job(recipe, Workspace(folder, Bars()), data)


def _score(job: Job, what: str) -> dict[str, Any]:
    plan = planner.plan(job)
    model, metadata = dense_model(job.checkpoint), None
    if pruned := sparsify(job, plan).checkpoint:
        model, metadata = pruned_model(job, pruned)
    if what == "50 %":  # each weight by itself
        model = replace(model, calibration=Weights([]))
    path, packed = _WORK / "model.gguf", _WORK / "model.packed.gguf"
    artifact, found = scored(job, plan, model, metadata, path)
    found["bytes"] = path.stat().st_size
    matrices = [t for t in artifact.tensors if t.name.startswith("blk") and len(t.shape) == 2]
    found["matrix_bytes"] = sum(t.bytes for t in matrices)
    found["weights"] = sum(t.shape[0] * t.shape[1] for t in matrices)
    found["zeros"] = 1 - sum(t.nonzeros for t in matrices) / found["weights"]
    if found["zeros"] > 0.3:
        found["packed"] = packed_file.pack(path, packed)
        packed.unlink()
    path.unlink()
    return found


def _zeros(pruned: PrunedCheckpoint) -> dict[str, float]:
    """Share of pruned weights that are exactly zero in each type, over one block's matrices."""
    found = {}
    weights = pruned.weights()
    records = [record for record in pruned.records if ".layers.10." in record.name]
    for name, kind in TYPES.items():
        if kind.mix:
            continue
        kept = total = 0
        for record in records:
            values = weights.read(record.name).float().numpy()
            values = values[:, : values.shape[1] // 256 * 256][:64]  # whole blocks of any type
            stored = fitting(GGMLQuantizationType[kind.base], values.shape[1])
            back = quants.dequantize(quantize(values, stored), stored)
            kept += int(np.count_nonzero(back[values == 0] == 0))
            total += int(np.count_nonzero(values == 0))
        found[name] = kept / total
    return found


def _page(zeros: dict[str, float], scored: dict[Any, dict[str, Any]], rows: int) -> str:
    lines = [
        "# GGUF types: zeros, size, quality",
        "",
        "Written by `benchmarks/gguf_types.py`. SmolLM2-135M-Instruct (opened from its Q4_1 file), "
        f"pruned to 50 % for arc_easy by the default method. {rows} rows of arc_easy, 6,144 tokens "
        "of WikiText-2 test, scored in stock llama.cpp.",
        "",
        sentence(),
        "",
        "## Which types keep exact zeros",
        "",
        "Symmetric types keep them; types with a minimum or a codebook do not. Measured on the "
        "pruned matrices of block 10, quantised by ggml: the share of pruned weights that are "
        "still zero. `edgeprune build` refuses the lower half unless `--allow-lossy-zeros` is "
        "given, and then reports the loss tensor by tensor.",
        "",
        "| type | pruned weights still zero | nearest type that keeps them |",
        "| --- | --- | --- |",
    ]
    for name, share in sorted(zeros.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {share:.2%} | {TYPES[name].instead or '–'} |")
    lines += [
        "",
        "The `z` mixes follow llama.cpp's K mixes tensor by tensor, with Q4_0 for Q4_K and Q5_0 "
        "for Q5_K: the same size, and zeros survive. SmolLM2's rows of 576 don't divide into K "
        "blocks of 256, so K types fall back as in llama.cpp (Q4_K to Q5_0, Q6_K to Q8_0) in all "
        "matrices but the down projections, and K mixes come out larger here than `z` mixes.",
        "",
        "## Size and quality",
        "",
        "*50 %* alone: each weight is rounded by itself. *Packed* is the file that `edgeprune "
        "pack` makes, and in brackets its pruned matrices' bytes as a share of the dense ones'. "
        "*Importance*: ggml's scale search weighted by the "
        "calibration data's mean squares. *GPTQ*: scales fitted to kept weights and each "
        "rounding error repaired by the weights to come, on the calibration data.",
        "",
        "| type | model | bits / weight | zeros | file MB | packed MB | general perplexity "
        "| nats / answer token | accuracy |",
        "|" + " --- |" * 9,
    ]
    for (name, what), r in sorted(scored.items(), key=lambda item: (-item[1]["bytes"], item[0])):
        packed = "–"
        if p := r.get("packed"):
            share = p["packed_tensor_bytes"] / p["tensor_bytes"]
            packed = f"{p['packed_bytes'] / 1e6:.1f} ({share:.2f})"
        lines.append(
            f"| {name} | {what} | {8 * r['matrix_bytes'] / r['weights']:.2f} | {r['zeros']:.1%} "
            f"| {r['bytes'] / 1e6:.1f} | {packed} | {r['general_perplexity']['value']:.1f} "
            f"| {r['nats_per_answer_token']['value']:.3f} | {r['accuracy']['value']:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
