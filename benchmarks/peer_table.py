"""Our pruning beside llm-compressor's: time, memory, masks and quality.

Writes docs/measured/peers.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/peer_table.py --peer /tmp/peer/.venv/bin/python

Both sides prune SmolLM2-135M on the same general tokens, each in a process of its own, one after
the other; the results go through the same export (Q8_0) and the same scoring in llama.cpp. What was
run before is only read, so that the table can be finished piece by piece.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from safetensors.torch import load_file

from benchmarks.scoring import scored
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.models.loading import load_tokenizer
from edgeprune.pipeline import planner
from edgeprune.pipeline.job import Job, dense_model, open_job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Quiet

_HERE = Path(__file__).parent / "peers"
_WORK = Path("ablations/peers")
_SHAPES = (("0.5", "0:0"), ("0.5", "2:4"), ("0.6", "0:0"), ("0.7", "0:0"))


@click.command()
@click.option("--peer", help="Python of llm-compressor's environment; without it, only known runs")
@click.option("--samples", default=32)
@click.option("--rows", default=150)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/peers.md"))
def main(peer: str | None, samples: int, rows: int, out: Path) -> None:
    recipe = Recipe.of(
        {"measurement": {"eval_rows": rows, "perplexity_tokens": 6144}},
        task="arc_easy", general="wikitext2", type="q8_0", sparsity=0,
    )  # fmt: skip
    job = open_job(recipe, Workspace(_WORK, Quiet()))
    _WORK.mkdir(parents=True, exist_ok=True)
    tokens = _WORK / f"tokens-{samples}.safetensors"
    streams = job.data.streams(load_tokenizer(job.checkpoint), samples, 512, 0)
    save_tensors(tokens, {"general": streams["general"].tokens})
    results = []
    for who, method, sparsity, pattern, extra in _runs():
        python = sys.executable if peer and who != "peer" else peer
        name = f"{who}-{method}-{sparsity}-{pattern.replace(':', 'of')}{''.join(extra)}"
        folder = _WORK / f"{name}-{samples}"
        command = [
            str(_HERE / f"{'llmcompressor' if who == 'peer' else 'edgeprune'}_prune.py"),
            "--model", str(job.checkpoint.folder), "--tokens", str(tokens), "--method", method,
            "--sparsity", sparsity, "--pattern", pattern, "--out", str(folder), *extra,
        ]  # fmt: skip
        record = read_json(folder / "result.json")
        if record is None and python:
            click.echo(name, err=True)
            done = subprocess.run([python, *command], check=True, stdout=subprocess.PIPE, text=True)
            record = json.loads(done.stdout.strip().splitlines()[-1])
            record |= _quality(job, folder)
            write_json(folder / "result.json", record)
        if record:
            results.append({"who": who, "extra": extra, "folder": folder} | record)
    out.write_text(_page(results, samples, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _runs() -> Iterator[tuple[str, str, str, str, tuple[str, ...]]]:
    """Who, method, sparsity, pattern and options; the two sides of one row follow each other."""
    for sparsity, pattern in _SHAPES:
        methods = ("wanda", "sparsegpt") if sparsity == "0.5" else ("sparsegpt",)
        for method in methods:
            yield "peer", method, sparsity, pattern, ()
            yield "ours", method, sparsity, pattern, ()
            if (sparsity, pattern) == ("0.5", "0:0"):
                yield "ours", method, sparsity, pattern, ("--as-peer",)
        yield "ours", "alps_fast", sparsity, pattern, ()


def _quality(job: Job, folder: Path) -> dict[str, Any]:
    """Scores of the weights that a side left in ``folder``."""
    weights, path = Weights([folder / "model.safetensors"]), folder / "model.gguf"
    model = replace(dense_model(job.checkpoint), weights=weights)
    _, found = scored(job, planner.plan(job), model, None, path)
    path.unlink()
    return {"quality": found}


def _agreement(one: Path, other: Path) -> float:
    """Share of the pruned matrices' weights that both sides keep, or both remove."""
    a, b = load_file(one), load_file(other)
    same = total = 0
    for name, tensor in a.items():
        if ".layers." in name and tensor.dim() == 2:
            same += int(((tensor != 0) == (b[name] != 0)).sum())
            total += tensor.numel()
    return same / total


def _page(results: list[dict[str, Any]], samples: int, rows: int) -> str:
    lines = [
        "# Beside llm-compressor, measured",
        "",
        "Written by `benchmarks/peer_table.py`. SmolLM2-135M-Instruct (from its Q4_1 file, as "
        f"float32), {samples} × 512 tokens of Wikipedia and web pages, general stream only, every "
        "linear layer of the blocks. Both sides get the same token file. Quality after the same "
        f"Q8_0 export, in llama.cpp: 6,144 tokens of WikiText-2 test, {rows} rows of arc_easy. "
        "Time is pruning alone; memory is the process's peak.",
        "",
        "*Peer settings*: blocks run in float32 as llm-compressor's do; ours run in bfloat16 where "
        "the CPU is faster in it. Masks are compared with the peer's of the same row. "
        "llm-compressor is given the blocks as targets: with `targets=['Linear'], "
        "ignore=['lm_head']` its version 0.14 prunes the tied head too, hence the embedding, which "
        "takes perplexity above 100. SparseGPT's masks depend on rounding through 30 blocks: by a "
        "check outside this script the peer agrees with itself at another batch size in 98.6 % of "
        "weights.",
        "",
        sentence(),
        "",
        "| method | sparsity | side | seconds | peak GB | general perplexity | nats / answer token "
        "| accuracy | same mask |",
        "|" + " --- |" * 9,
    ]
    peers: dict[tuple[str, float, str], dict[str, Any]] = {}
    for r in results:
        row = (r["method"], r["sparsity"], r["pattern"])
        if r["who"] == "peer":
            peers[row] = r
        side = {"peer": "llm-compressor", "ours": "edgeprune"}[r["who"]]
        side += ", peer settings" if r["extra"] else ""
        agreement = "–"
        if r["who"] == "ours" and row in peers:
            files = [x["folder"] / "model.safetensors" for x in (r, peers[row])]
            if all(file.is_file() for file in files):
                agreement = f"{_agreement(*files):.2%}"
        q = r["quality"]
        amount = r["pattern"] if r["pattern"] != "0:0" else f"{r['sparsity']:.0%}"
        lines.append(
            f"| {r['method']} | {amount} | {side} | {r['seconds']:.0f} | {r['peak_rss'] / 1e9:.2f} "
            f"| {q['general_perplexity']['value']:.1f} | {q['nats_per_answer_token']['value']:.3f} "
            f"| {q['accuracy']['value']:.3f} | {agreement} |"
        )
    versions = [r["versions"] for r in results if r["who"] == "peer"]
    if versions:
        known = ", ".join(f"{name} {number}" for name, number in versions[0].items())
        lines += ["", f"Peer environment: {known}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
