"""Sparse weights in llama.cpp beside stock llama.cpp, on the same file.

Writes docs/measured/sparse.md.

    python benchmarks/sparse_speed.py                    # the page's models, about 40 minutes
    python benchmarks/sparse_speed.py --only "1B Q8_0 50 %"    # one anew, the rest as last measured

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

from edgeprune.support.environment import sentence

_FOLDER = Path("ablations/sparse-speed")
_ENVIRONMENT = {
    "stock": {"EDGEPRUNE_SPARSE": "0"},
    "dense layout": {"EDGEPRUNE_LAYOUT": "dense"},
    "sparse": {},
    "any density": {"EDGEPRUNE_LAYOUT": "sparse"},
}
_BYTES = {"Q8_0": 34 / 32, "Q4_0": 18 / 32, "F16": 2}  # a weight takes in a GGUF file
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

    @property
    def unread(self) -> float:
        """Bytes of an embedding of which a token reads one row; SmolLM2's is its head, too."""
        return 32768 * 2048 * 34 / 32 if self.random else 0


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
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/sparse.md"))
@click.option("--job", hidden=True)
@click.option("--agreement-of", hidden=True)
def main(
    only: tuple[str, ...], rounds: int, threads: int, only_print: bool, out: Path,
    job: str | None, agreement_of: str | None,
) -> None:  # fmt: skip
    if job or agreement_of:
        found = _measure(Path(job), threads) if job else _agreement(Path(agreement_of or ""))
        click.echo(json.dumps(found))
        return
    cases = [case for case in CASES if not only or case.name in only]
    _FOLDER.mkdir(parents=True, exist_ok=True)
    runs: dict[Case, dict[str, list[dict[str, Any]]]] = {}
    bandwidth = []
    for case in cases:
        _make(case)
        bandwidth.append(read_bandwidth(threads))
        runs[case] = {who: [] for who in _TURNS}
        for _ in range(rounds):
            for who in _TURNS:
                runs[case][who].append(child(case.path, who, threads))
        click.echo(_table({case: runs[case]}), err=True)
    samples, answers = _FOLDER / "samples.json", _FOLDER / "agreement.json"
    known = json.loads(samples.read_text()) if samples.exists() else {}
    known |= {case.name: found for case, found in runs.items()}
    samples.write_text(json.dumps(known))
    for case in cases:
        if not case.random:
            answers.write_text(json.dumps([_job(["--agreement-of", str(case.path)], {})]))
    agreement = json.loads(answers.read_text()) if answers.exists() else []
    runs = {case: known[case.name] for case in CASES if case.name in known}
    page = _page(runs, rounds, threads, statistics.median(bandwidth), agreement, _bounds(threads))
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
        from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama

        sizes = Sizes(
            (case.kind,) * 16, width=2048, feed_forward=8192, heads=32, kv_heads=8,
            vocabulary=32768, context=2048, head_type="Q8_0",
        )  # fmt: skip
        write_random_llama(case.path, sizes, case.zeros)
        return
    from edgeprune import Recipe, build

    built = build(Recipe.of(task="medqa", type=case.kind.lower(), sparsity=case.zeros))
    assert built
    case.path.symlink_to(built.artifact.resolve())


def child(path: Path, who: str, threads: int) -> dict[str, Any]:
    """Measure a file in a process of its own, as one of the contenders loads it."""
    return _job(["--job", str(path), "--threads", str(threads)], _ENVIRONMENT[who])


def _job(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | environment, check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


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


def _bounds(threads: int) -> list[tuple[str, float, float, float]]:
    """Of each kind of weight: bits, and ns for 32 weights in cache, sparse and dense layout."""
    from gguf import GGMLQuantizationType, quants

    from edgeprune.runtime.library import DENSE, SPARSE, PackedMatrix

    rows, columns, found = 512 * threads, 2048, []
    random = np.random.default_rng(0)
    x = random.standard_normal((1, columns), np.float32)
    for kind, zeros in (("Q8_0", 0.5), ("Q8_0", 0.7), ("Q4_0", 0.5), ("Q4_0", 0.7), ("F16", 0.5)):
        weights = random.standard_normal((rows, columns), np.float32)
        weights[random.random(weights.shape) < zeros] = 0
        data = quants.quantize(weights, GGMLQuantizationType[kind]).view(np.uint8).reshape(-1)
        times, bits = [], 0.0
        for layout in (DENSE, SPARSE):
            matrix, best = PackedMatrix(kind, data, (rows, columns), layout), float("inf")
            for _ in range(300):
                start = time.perf_counter()
                matrix.times(x)
                best = min(best, time.perf_counter() - start)
            times.append(32e9 * best / weights.size)
            bits = 8 * matrix.packed.nbytes / weights.size
        dense, sparse = times
        found.append((f"{kind} {zeros:.0%}", bits, dense, sparse))
    return found


def _touch(path: Path) -> None:
    with path.open("rb") as file:  # into the page cache, as every contender finds it
        while file.read(1 << 24):
            pass


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def _agreement(path: Path) -> dict[str, Any]:
    """Stock llama.cpp, sparse weights, and the same weights with float activations, compared."""
    from llama_cpp import llama_cpp as api

    from edgeprune.data.render import Renderer
    from edgeprune.data.sources import load_split
    from edgeprune.data.task import open_task
    from edgeprune.runtime.llamacpp import adapter
    from runtime_tests.runners.llamacpp import LlamaCpp

    widened = _FOLDER / "f32.gguf"
    settings = api.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = 0, True
    assert api.llama_model_quantize(str(path).encode(), str(widened).encode(), settings) == 0
    runners = {"sparse": LlamaCpp(path, 2)}
    adapter.is_sparse = lambda file: False  # from here on, files are loaded as they stand
    runners |= {"stock": LlamaCpp(path, 2), "float activations": LlamaCpp(widened, 2)}
    prompts = {}
    for name in ("boolq", "medqa"):
        task = open_task(name)
        prompts[name] = [Renderer(task).prompt(row) for row in load_split(task).evaluation]
    text = "\n".join(prompts["boolq"][100:250])
    found: dict[str, Any] = {"perplexity": {}, "pairs": {}}
    for name, runner in runners.items():
        read = runner.perplexity(text, 10240)
        found["perplexity"][name] = float(np.exp(sum(read["nats"]) / read["tokens"]))
    questions = prompts["medqa"][:100]
    written = {name: [r.generate(questions, n) for n in (1, 8)] for name, r in runners.items()}
    for one, other in (("stock", "sparse"), ("stock", "float activations"),
                       ("sparse", "float activations")):  # fmt: skip
        equal = [
            sum(a == b for a, b in zip(x, y, strict=True))
            for x, y in zip(written[one], written[other], strict=True)
        ]
        found["pairs"][f"{one} and {other}"] = equal
    return found


def _table(runs: dict[Case, dict[str, list[dict[str, Any]]]]) -> str:
    lines = [
        "| model | | decode, tok/s | × stock | × dense layout | bits / weight | GB/s "
        "| prefill, tok/s | × stock | memory, MB | × stock | load, s | × stock |",
        "|" + " --- |" * 13,
    ]
    for case, found in runs.items():
        medians = {
            who: {key: statistics.median(s[key] for s in samples) for key in samples[0]}
            for who, samples in found.items()
        }
        stock, layout = medians["stock"], medians["dense layout"]
        weights = medians["sparse"]["plain"] / _BYTES[case.kind]
        for who, own in medians.items():
            rates = [sample["decode"] for sample in found[who]]
            held = own["packed"] or medians["sparse"]["plain"]
            lines.append(
                f"| {case.name} | {who} | {own['decode']:.1f} ({min(rates):.1f}-{max(rates):.1f}) "
                f"| {own['decode'] / stock['decode']:.2f} "
                f"| {own['decode'] / layout['decode']:.2f} | {8 * held / weights:.2f} "
                f"| {(own['weights'] - case.unread) * own['decode'] / 1e9:.1f} "
                f"| {own['prefill']:.0f} | {own['prefill'] / stock['prefill']:.2f} "
                f"| {own['weights'] / 1e6:.0f} | {own['weights'] / stock['weights']:.2f} "
                f"| {own['load']:.2f} | {own['load'] / stock['load']:.2f} |"
            )
    return "\n".join(lines)


def _page(
    runs: dict[Case, dict[str, list[dict[str, Any]]]],
    rounds: int,
    threads: int,
    bandwidth: float,
    agreement: list[dict[str, Any]],
    bounds: list[tuple[str, float, float, float]],
) -> str:
    lines = [
        "# Sparse weights in llama.cpp, measured",
        "",
        f"Written by `benchmarks/sparse_speed.py`: {threads} threads, {rounds} rounds in which "
        "contenders take turns, each time in a process of its own; medians, for decode with their "
        "range. *stock* is llama-cpp-python on the same file. *dense layout* is our kernels with "
        "the zeros left in: what stands between it and *sparse* is sparsity, what stands between "
        "it and *stock* is the kernel. 1B is a Llama of random weights, 16 blocks of 2048 / 8192, "
        "a vocabulary of 32,768, head and embedding dense in Q8_0; SmolLM2-135M is what "
        "`edgeprune build --task medqa` makes. Nothing is mapped: memory is what loading adds. "
        "Prefill: 256 tokens. GB/s: bytes of weights that a token reads, times tokens per second.",
        "",
        f"{sentence()} It reads memory at {bandwidth:.1f} GB/s with {threads} threads.",
        "",
        _table(runs),
        "",
        "## What bounds decode",
        "",
        "Nanoseconds that one thread takes for 32 weights, zeros counted. *memory*: their share of "
        f"{bandwidth:.1f} GB/s, one of {threads} threads; *kernel*: from the cache, without "
        "waiting for memory. The larger of the two is the bound. Where it is the kernel, more "
        "zeros help no further: each chunk of weights is expanded and multiplied, whatever it "
        "holds.",
        "",
        "| weights | bits / weight | memory | kernel | kernel, dense layout |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {bits:.2f} | {4 * bits * threads / bandwidth:.2f} | {sparse:.2f} "
            f"| {dense:.2f} |"
            for name, bits, dense, sparse in bounds
        ),
    ]
    for found in agreement:
        lines += [
            "",
            "## The same answers?",
            "",
            "SmolLM2-135M as above; perplexity over 10,240 tokens of BoolQ. Activations are "
            "rounded to 8 bits as in llama.cpp, to the bit, but sums run in another order, and "
            "8-bit rounding makes of the last bit of a sum noise as large as that of the rounding "
            "itself. So *stock* and *sparse* differ from each other as each of them does from the "
            "same weights with float activations (the file widened to F32):",
            "",
            "| perplexity | |",
            "| --- | --- |",
            *(f"| {name} | {value:.3f} |" for name, value in found["perplexity"].items()),
            "",
            "| of 100 greedy answers to medqa, equal | 1 token | 8 tokens |",
            "| --- | --- | --- |",
            *(
                f"| {pair} | " + " | ".join(map(str, equal)) + " |"
                for pair, equal in found["pairs"].items()
            ),
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
