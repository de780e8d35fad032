"""How cost grows with samples, length and model size: writes docs/measured/cost.md and .svg.

    python benchmarks/cost.py

Random weights in real shapes: time and memory depend on shapes alone. Only the first blocks of each
shape are built; the page gives seconds per block as measured, and the whole model's time as what
follows from them. Every point is a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from edgeprune.support.environment import cores, sentence

# Width, feed-forward width, query and key heads, blocks of the whole model, blocks built here.
_SHAPES = {
    "SmolLM2-135M": (576, 1536, 9, 3, 30, 4),
    "0.5B (Qwen2.5)": (896, 4864, 14, 2, 24, 2),
    "1.5B (Qwen2.5)": (1536, 8960, 12, 2, 28, 1),
}
_FIRST = "SmolLM2-135M"
_SAMPLES = (4, 8, 16, 32)
_LENGTHS = (128, 256, 512, 1024)


@click.command()
@click.option("--method", default="alps_fast")
@click.option("--point", hidden=True, help="shape, samples, length: measure here")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/cost.md"))
def main(method: str, point: str | None, out: Path) -> None:
    if point:
        shape, samples, length = point.split("/")
        click.echo(json.dumps(_measure(shape, int(samples), int(length), method)))
        return
    by_samples = [_child(_FIRST, n, 512, method) for n in _SAMPLES]
    by_length = [_child(_FIRST, 8, n, method) for n in _LENGTHS]
    by_size = [_child(shape, 8, 512, method) for shape in _SHAPES]
    _draw(
        out.with_suffix(".svg"),
        [
            ("sequences a stream (× 512)", _SAMPLES, by_samples),
            ("tokens a sequence (× 8)", _LENGTHS, by_length),
            ("width of the model (8 × 512)", [s[0] for s in _SHAPES.values()], by_size),
        ],
    )
    out.write_text(_page(method, by_samples + by_length + by_size), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _child(shape: str, samples: int, length: int, method: str) -> dict[str, Any]:
    point = f"{shape}/{samples}/{length}"
    command = [sys.executable, __file__, "--method", method, "--point", point]
    click.echo(point, err=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(shape: str, samples: int, length: int, method: str) -> dict[str, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from edgeprune.data.streams import Stream
    from edgeprune.engine import Pruning, prune
    from edgeprune.models import open_checkpoint
    from edgeprune.planning.patterns import UNSTRUCTURED
    from edgeprune.planning.tensors import ModelPlan
    from edgeprune.pruning.fusion import FusionRule
    from edgeprune.support.progress import Quiet

    torch.set_num_threads(cores())
    width, inner, heads, key_heads, whole, built = _SHAPES[shape]
    config = LlamaConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=inner, num_hidden_layers=built,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
        tokens = torch.randint(0, 1024, (samples, length))
        stream = Stream(tokens, torch.ones_like(tokens, dtype=torch.bool))
        streams = {"general": stream, "task": Stream(tokens.flip(1), stream.answers)}
        checkpoint, half = open_checkpoint(folder), ModelPlan({}, UNSTRUCTURED, 0.5)
        pruning, work = Pruning(method, FusionRule("mix")), Path(folder) / "w"
        start = time.perf_counter()
        prune(checkpoint, streams, pruning, half, work, Quiet())
        seconds = (time.perf_counter() - start) / built
    return {
        "shape": shape, "samples": samples, "length": length, "blocks": whole, "built": built,
        "seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def _draw(path: Path, panels: list[tuple[str, Any, list[dict[str, Any]]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (label, x, points) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(x, [p["seconds"] for p in points], marker="o", label="s / block")
        axes.plot(x, [p["peak"] / 1e9 for p in points], marker="s", label="peak GB")
        axes.set(xlabel=label, ylim=(0, None))
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def _page(method: str, points: list[dict[str, Any]]) -> str:
    lines = [
        "# How cost grows, measured",
        "",
        f"Written by `benchmarks/cost.py`: `{method}`, two streams mixed, random bfloat16 weights. "
        "Seconds per block and peak memory are measured on the blocks built; the last column is "
        "seconds per block times the whole model's blocks, not a measurement. Peak memory holds "
        "the libraries (about 0.5 GB) and the blocks built, not a whole model.",
        "",
        sentence(),
        "",
        "![time and memory against samples, length and width](cost.svg)",
        "",
        "| shape | samples a stream | length | blocks built | s / block | peak GB | whole model |",
        "|" + " --- |" * 7,
    ]
    for p in points:
        lines.append(
            f"| {p['shape']} | {p['samples']} | {p['length']} | {p['built']} of {p['blocks']} "
            f"| {p['seconds']:.2f} | {p['peak'] / 1e9:.2f} "
            f"| {p['seconds'] * p['blocks'] / 60:.1f} min |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
