"""Relative output error of solvers and roundings on the real model.

Writes docs/measured/layer-error.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/layer_error.py

Inputs are those of the dense model on both streams, mixed, so every method sees the same Gram
matrix of every layer, and the errors can be set side by side. Rounding is measured on every matrix,
pruned to 50 % by the default method and dense.
"""

from collections import defaultdict
from pathlib import Path
from statistics import mean

import click
import torch
from gguf import GGMLQuantizationType, quants

from benchmarks.layers import layers
from edgeprune.engine.pruner import relative_error
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.matrix import Pruning, prune_matrix
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.support.environment import cores, sentence
from exporters.gguf.ggml import quantize
from exporters.gguf.grids import GRIDS

_PAGE = Path("docs/measured/layer-error.md")
_METHODS = {
    "wanda": Pruning("wanda"),
    "wanda + refit": Pruning("wanda", refit=True),
    "wanda + swaps + refit": Pruning("wanda", swaps=True, refit=True),
    "sparsegpt": Pruning("sparsegpt"),
    "rose": Pruning("rose"),
    "alps_fast": Pruning("alps_fast"),
    "alps": Pruning("alps"),
}


@click.command()
@click.option("--task", default="arc_easy")
@click.option("--samples", default=24)
@click.option("--every", default=5, help="measure every n-th block")
@click.option("--sparsities", default="0.5,0.6,0.7")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, samples: int, every: int, sparsities: str, out: Path) -> None:
    torch.set_num_threads(cores())
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    rounding: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for index, _, dense, inputs in layers(task, samples):
        half = Budget(UNSTRUCTURED, dense.numel() // 2)
        pruned = prune_matrix(dense, inputs, Pruning("alps_fast"), half)
        for what, weight in (("dense", dense), ("50 %", pruned)):
            for (kind, how), error in _rounding_errors(weight, inputs.joint.gram).items():
                rounding[kind, what, how].append(error)
        for amount in sparsities.split(",") if index % every == 0 else ():
            budget = Budget(UNSTRUCTURED, round(float(amount) * dense.numel()))
            for label, pruning in _METHODS.items():
                pruned = prune_matrix(dense, inputs, pruning, budget)
                error = relative_error(dense, pruned, inputs.joint.gram.matrix)
                errors[label, amount].append(error)
    page = _page(errors, sparsities.split(","), every, samples, task) + _rounding_page(rounding)
    out.write_text(page, encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _rounding_errors(weight: torch.Tensor, gram: Gram) -> dict[tuple[str, str], float]:
    """Output error that rounding alone adds, by type and way."""
    found = {}
    for kind, grid in GRIDS.items():
        stored = GGMLQuantizationType[kind]
        values, importance = weight.numpy(), gram.norms.square().numpy()
        plain = quants.dequantize(quantize(values, stored), stored)
        weighted = quants.dequantize(quantize(values, stored, importance), stored)
        ways = {
            "plain": torch.from_numpy(plain),
            "importance": torch.from_numpy(weighted),
            "GPTQ": round_to_grid(weight, gram, grid)[0],
        }
        for how, rounded in ways.items():
            found[kind, how] = relative_error(weight, rounded, gram.matrix)
    return found


def _rounding_page(rounding: dict[tuple[str, str, str], list[float]]) -> str:
    lines = [
        "",
        "## Rounding",
        "",
        "The same error, added by rounding alone: plainly by ggml, by ggml's scale search with the "
        "calibration data's importances, and by GPTQ with fitted scales. Mean over all matrices; "
        "*lower* counts those where GPTQ is below plain.",
        "",
        "| type | weights | plain | importance | GPTQ | lower |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in GRIDS:
        for what in ("dense", "50 %"):
            plain, weighted, fed = (
                rounding[kind, what, how] for how in ("plain", "importance", "GPTQ")
            )
            lower = sum(a < b for a, b in zip(fed, plain, strict=True))
            lines.append(
                f"| {kind} | {what} | {mean(plain):.6f} | {mean(weighted):.6f} | {mean(fed):.6f} "
                f"| {lower} of {len(plain)} |"
            )
    return "\n".join(lines) + "\n"


def _page(
    errors: dict[tuple[str, str], list[float]],
    amounts: list[str],
    every: int,
    samples: int,
    task: str,
) -> str:
    count = len(errors["alps", amounts[0]])
    lines = [
        "# Output error layer by layer, measured",
        "",
        "Written by `benchmarks/layer_error.py`: `tr (ΔW H ΔWᵀ) / tr (W H Wᵀ)`, mean over "
        f"{count} matrices of SmolLM2-135M-Instruct (every {every}th block), with `H` from "
        f"{samples} × 512 tokens each of general text and of {task}, mixed half and half; dense "
        "inputs, unstructured, uniform sparsity.",
        "",
        sentence(),
        "",
        "| method | " + " | ".join(f"{float(a):.0%}" for a in amounts) + " |",
        "|" + " --- |" * (len(amounts) + 1),
    ]
    for label in _METHODS:
        cells = [f"{mean(errors[label, a]):.4f}" for a in amounts]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines.append("")
    for a in amounts:
        triples = list(
            zip(errors["alps", a], errors["sparsegpt", a], errors["wanda", a], strict=True)
        )
        ordered = sum(x < y < z for x, y, z in triples)
        lines.append(
            f"At {float(a):.0%}, ALPS is below SparseGPT and SparseGPT below Wanda on {ordered} of "
            f"{count} matrices."
        )
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


if __name__ == "__main__":
    main()
