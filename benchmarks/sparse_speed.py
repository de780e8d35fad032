"""Sparse weights in llama.cpp beside stock llama.cpp, on the same file: writes docs/sparse.md.

    python benchmarks/sparse_speed.py                    # the page's models, about 40 minutes
    python benchmarks/sparse_speed.py --only "1B Q8_0 50 %" --print

Each measurement is a child process of its own: stock, sparse, and the same kernels with the zeros
left in (`EDGEPRUNE_LAYOUT=dense`), which shows what sparsity itself brings. They take turns;
figures are medians, with their range. Decode reads every weight once a token: the rate at which
that happens stands beside it, and the rate at which this machine reads memory at all.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeprune.machine import sentence

_FOLDER = Path("ablations/sparse-speed")
_ENVIRONMENT = {
    "stock": {"EDGEPRUNE_SPARSE": "0"},
    "dense layout": {"EDGEPRUNE_LAYOUT": "dense"},
    "sparse": {},
    "any density": {"EDGEPRUNE_LAYOUT": "sparse"},
}
_TURNS = ("stock", "dense layout", "sparse")


@dataclass(frozen=True)
class Case:
    """A model to measure: a random 1B Llama, or SmolLM2 as `edgeprune build` prunes it."""

    name: str
    kind: str
    zeros: float
    random: bool = True

    @property
    def path(self) -> Path:
        source = "1b" if self.random else "smollm2"
        return _FOLDER / f"{source}-{self.kind.lower()}-{round(100 * self.zeros)}.gguf"


CASES = (
    Case("1B Q8_0 50 %", "Q8_0", 0.5),
    Case("1B Q8_0 70 %", "Q8_0", 0.7),
    Case("1B Q4_0 50 %", "Q4_0", 0.5),
    Case("1B Q4_0 70 %", "Q4_0", 0.7),
    Case("1B F16 50 %", "F16", 0.5),
    Case("SmolLM2-135M Q8_0 50 %", "Q8_0", 0.5, random=False),
)


@click.command()
@click.option("--only", multiple=True, help="name of a case; may be repeated")
@click.option("--rounds", default=7)
@click.option("--threads", default=2)
@click.option("--print", "only_print", is_flag=True, help="write no page")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/sparse.md"))
@click.option("--job", hidden=True)
def main(
    only: tuple[str, ...], rounds: int, threads: int, only_print: bool, out: Path, job: str | None
) -> None:
    if job:
        click.echo(json.dumps(_measure(Path(job), threads)))
        return
    cases = [case for case in CASES if not only or case.name in only]
    _FOLDER.mkdir(parents=True, exist_ok=True)
    bandwidth = read_bandwidth(threads)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for case in cases:
        _make(case)
        runs = found.setdefault(case.name, {who: [] for who in _TURNS})
        for _ in range(rounds):
            for who in _TURNS:
                runs[who].append(child(case.path, who, threads))
        click.echo(_table({case.name: runs}), err=True)
    (_FOLDER / "samples.json").write_text(json.dumps(found))
    page = _page(found, rounds, threads, bandwidth)
    if not only_print:
        out.write_text(page, encoding="utf-8")
    click.echo(page)


def read_bandwidth(threads: int) -> float:
    """GB/s at which this many threads read memory that no cache holds; the best of several."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.ones(1 << 27, np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(9):
            start = time.perf_counter()
            list(pool.map(np.max, parts))  # releases Python's lock
            best = max(best, (8 << 27) / (time.perf_counter() - start) / 1e9)
    return best


def _make(case: Case) -> None:
    if case.path.exists():
        return
    if case.random:
        from edgeprune.runtime.random_model import Sizes, write_random_llama

        sizes = Sizes(
            (case.kind,) * 16, width=2048, feed_forward=8192, heads=32, kv_heads=8,
            vocabulary=32768, context=2048, head_type="Q8_0",
        )  # fmt: skip
        write_random_llama(case.path, sizes, case.zeros)
        return
    from edgeprune import build
    from edgeprune.recipe import make

    recipe = make({"task": "medqa", "type": case.kind.lower(), "sparsity": case.zeros})
    case.path.symlink_to(build(recipe).artifact.resolve())


def child(path: Path, who: str, threads: int) -> dict[str, Any]:
    """Measure a file in a process of its own, as one of the contenders loads it."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", str(path), "--threads", str(threads)],
        env=os.environ | _ENVIRONMENT[who], check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


def _measure(path: Path, threads: int) -> dict[str, Any]:
    """Load, prefill and decode once in this process."""
    from llama_cpp import llama_cpp as api

    from edgeprune.runtime import load_model

    api.llama_log_set(_quiet := api.llama_log_callback(lambda *_: None), None)
    api.llama_backend_init()
    path.read_bytes() if path.stat().st_size < 1 << 28 else _touch(path)
    before = _anonymous_bytes()
    params = api.llama_model_default_params()
    params.load_mode = api.LLAMA_LOAD_MODE_NONE
    start = time.perf_counter()
    loaded = load_model(path, params)
    load_seconds = time.perf_counter() - start
    weights = _anonymous_bytes() - before
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 1024, threads, threads
    context = api.llama_init_from_model(loaded.model, settings)

    def decode(ids: list[int]) -> float:
        tokens = (api.llama_token * len(ids))(*ids)
        start = time.perf_counter()
        assert api.llama_decode(context, api.llama_batch_get_one(tokens, len(ids))) == 0
        api.llama_synchronize(context)
        return time.perf_counter() - start

    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(loaded.model))
    prompt = [i * 7919 % vocabulary for i in range(256)]
    decode(prompt)
    api.llama_memory_clear(api.llama_get_memory(context), True)
    prefill = 256 / decode(prompt)
    steps = [decode([100 + i % 100]) for i in range(48)]
    sparse = loaded.sparse
    return {
        "load": load_seconds,
        "weights": weights,
        "prefill": prefill,
        "decode": 1 / statistics.median(steps),
        "packed": sparse.packed_bytes if sparse else 0,
        "plain": sparse.dense_bytes if sparse else 0,
    }


def _touch(path: Path) -> None:
    with path.open("rb") as file:  # into the page cache, as every contender finds it
        while file.read(1 << 24):
            pass


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def _table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    lines = [
        "| model | | decode, tok/s | × | GB/s | prefill, tok/s | × | weights, MB | × | load, s |",
        "|" + " --- |" * 10,
    ]
    for name, runs in found.items():
        stock = {key: _median(runs["stock"], key) for key in runs["stock"][0]}
        for who, samples in runs.items():
            own = {key: _median(samples, key) for key in samples[0]}
            rates = [s["decode"] for s in samples]
            lines.append(
                f"| {name} | {who} | {own['decode']:.1f} ({min(rates):.1f}-{max(rates):.1f}) "
                f"| {own['decode'] / stock['decode']:.2f} "
                f"| {own['weights'] * own['decode'] / 1e9:.1f} "
                f"| {own['prefill']:.0f} | {own['prefill'] / stock['prefill']:.2f} "
                f"| {own['weights'] / 1e6:.0f} | {own['weights'] / stock['weights']:.2f} "
                f"| {own['load']:.2f} |"
            )
    return "\n".join(lines)


def _median(samples: list[dict[str, Any]], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def _page(
    found: dict[str, dict[str, list[dict[str, Any]]]], rounds: int, threads: int, bandwidth: float
) -> str:
    return "\n".join([_table(found), "", sentence(), f"{bandwidth:.1f} GB/s", ""])


if __name__ == "__main__":
    main()
