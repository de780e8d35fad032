"""Sparse weights in llama.cpp beside stock llama.cpp, on the same file.

Writes docs/measured/sparse.md.

    python benchmarks/sparse_speed.py                    # the page's models, about 30 minutes
    python benchmarks/sparse_speed.py --only "1B Q8_0 50 %"    # one anew, the rest as last measured

Stock, sparse, and the same kernels with the zeros left in (`EDGEPRUNE_LAYOUT=dense`), which shows
what sparsity itself brings: fresh processes of each take turns, as everywhere in the product
(`runtime_tests.timing`). Decode reads every weight once a token: the rate at which that happens
stands beside it, and the rate at which this machine reads memory at all.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.timed import in_turns, middle, times, way
from edgeprune.formats.packers import packer
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from runtime_tests.bench import Lengths
from runtime_tests.paired import by_process

_FOLDER = Path("ablations/sparse-speed")
_ENVIRONMENT = {
    "stock": {"EDGEPRUNE_SPARSE": "0"},
    "dense layout": {"EDGEPRUNE_LAYOUT": "dense"},
    "sparse": {},
}
_BYTES = {"Q8_0": 34 / 32, "Q4_0": 18 / 32, "F16": 2}  # a weight takes in a GGUF file
_PREFILL, _DECODE = 256, 48


@dataclass(frozen=True)
class Case:
    """A model to measure: a random 1B Llama, or SmolLM2 as `edgeprune build` prunes it."""

    name: str
    kind: str
    zeros: float
    random: bool = True

    @property
    def path(self) -> Path:
        source, kind = "1b" if self.random else "smollm2", re.sub(r"[:/+]", "-", self.kind.lower())
        return _FOLDER / f"{source}-{kind}-{round(100 * self.zeros)}.gguf"

    @property
    def bytes_each(self) -> float:
        """Bytes of a weight in the plain file."""
        return _BYTES[self.kind.partition(":")[0]]

    @property
    def unread(self) -> float:
        """Bytes of an embedding of which a token reads one row; SmolLM2's is its head, too."""
        return 32768 * 2048 * _BYTES["Q8_0"] if self.random else 0


CASES = (
    Case("1B Q8_0 50 %", "Q8_0", 0.5),
    Case("1B Q8_0 70 %", "Q8_0", 0.7),
    Case("1B Q4_0 50 %", "Q4_0", 0.5),
    Case("1B Q4_0 70 %", "Q4_0", 0.7),
    Case("1B Q4_0:3", "Q4_0:3", 0.0),
    Case("1B Q4_0:3/64", "Q4_0:3/64", 0.0),
    Case("1B Q4_0:2/64", "Q4_0:2/64", 0.0),
    Case("1B Q4_0:2+mask/64 50 %", "Q4_0:2+mask/64", 0.5),
    Case("1B F16 50 %", "F16", 0.5),
    Case("SmolLM2-135M Q8_0 50 %", "Q8_0", 0.5, random=False),
    Case("SmolLM2-135M Q4_0 50 %", "Q4_0", 0.5, random=False),
    Case("SmolLM2-135M Q4_0:3", "Q4_0:3", 0.0, random=False),
)
_Q2_K, _Q2_K_BITS = "stock Q2_K", 2.625  # beside codes of about as many bits


@click.command()
@click.option("--only", multiple=True, help="name of a case; may be repeated")
@click.option("--processes", default=6, help="of each contender")
@click.option("--rounds", default=2, help="in each process")
@click.option("--threads", default=2)
@click.option("--print", "only_print", is_flag=True, help="write no page")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/sparse.md"))
@click.option("--weigh", hidden=True)
@click.option("--agreement-of", hidden=True)
def main(
    only: tuple[str, ...], processes: int, rounds: int, threads: int, only_print: bool, out: Path,
    weigh: str | None, agreement_of: str | None,
) -> None:  # fmt: skip
    if weigh or agreement_of:
        found = _weigh(Path(weigh)) if weigh else _agreement(Path(agreement_of or ""))
        click.echo(json.dumps(found))
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    timings, answers = _FOLDER / "timings.json", _FOLDER / "agreement.json"
    known = read_json(timings) or {}
    for case in CASES:
        if case.name not in only and (only or case.name in known):
            continue
        _make(case)
        known[case.name] = measured(case, threads, processes, rounds) | {"bytes": _weighed(case)}
        write_json(timings, known)
        click.echo(_table({case: known[case.name]}), err=True)
        if not case.random and case.zeros and case.kind == "Q8_0":
            answers.write_text(json.dumps([_job("--agreement-of", str(case.path))]))
    page = _page(
        {case: known[case.name] for case in CASES if case.name in known}, processes, rounds,
        threads, json.loads(answers.read_text()) if answers.exists() else [], _bounds(threads),
    )  # fmt: skip
    if not only_print:
        out.write_text(page, encoding="utf-8")
    click.echo(page)


def measured(case: Case, threads: int, processes: int, rounds: int) -> dict[str, Any]:
    """Speeds of all contenders in turns, and how fast memory was then."""
    lengths = Lengths((_PREFILL,), (_DECODE,), threads=(threads,), first_token=False)
    ways = {who: way(path, lengths, wants) for who, (path, wants) in _files(case).items()}
    return {"bandwidth": read_bandwidth(threads), "samples": in_turns(ways, processes, rounds)}


def _files(case: Case) -> dict[str, tuple[Path, dict[str, str]]]:
    """Each contender's file, and its environment."""
    files = {who: (case.path, wants) for who, wants in _ENVIRONMENT.items()}
    if ":2" in case.kind:
        files[_Q2_K] = (_q2_k(case), _ENVIRONMENT["stock"])
    return files


def _weighed(case: Case) -> dict[str, dict[str, int]]:
    """Bytes of each contender in memory, and of its file: ours is packed."""
    found = {
        who: _job("--weigh", str(path), **wants) for who, (path, wants) in _files(case).items()
    }
    for who, (path, _) in _files(case).items():
        found[who]["file"] = path.stat().st_size
    packed = _FOLDER / "packed.gguf"
    packer(case.path).pack(case.path, packed, lambda _done: None)
    found["sparse"]["file"] = packed.stat().st_size
    packed.unlink()
    return found


def _q2_k(case: Case) -> Path:
    """The same model in llama.cpp's own type of 2.6 bits, embedding and head as they are."""
    from llama_cpp import llama_cpp as api

    target = case.path.with_name("1b-q2_k.gguf")
    if not target.exists():
        settings = api.llama_model_quantize_default_params()
        settings.ftype, settings.pure, settings.allow_requantize = 10, True, True
        settings.output_tensor_type = settings.token_embedding_type = 8  # Q8_0
        source, made = str(case.path).encode(), str(target).encode()
        assert api.llama_model_quantize(source, made, settings) == 0
    return target


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

    recipe = Recipe.of(
        {"artifact.embedding_type": case.kind.partition(":")[0].lower()},
        task="medqa", type=case.kind.lower(), sparsity=case.zeros,
    )  # fmt: skip
    built = build(recipe)
    assert built
    case.path.symlink_to(built.artifact.resolve())


def _job(*arguments: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | environment, check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _weigh(path: Path) -> dict[str, int]:
    """Bytes that loading adds, by what they are: nothing is mapped.

    Returns:
        ``vocabulary``, ``weights``, all but the vocabulary; of them ``packed``, pruned tensors, and
        ``plain``, the same in the file.
    """
    from llama_cpp import llama_cpp as api

    from edgeprune.formats.gguf.file import open_gguf
    from edgeprune.formats.metadata import read_gguf
    from edgeprune.runtime import load_model
    from edgeprune.runtime.llamacpp import adapter

    api.llama_log_set(_quiet := api.llama_log_callback(lambda *_: None), None)
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.load_mode, params.vocab_only = api.LLAMA_LOAD_MODE_NONE, True
    before = _anonymous_bytes()
    _kept = api.llama_model_load_from_file(str(path).encode(), params)
    vocabulary = _anonymous_bytes() - before
    params.vocab_only = False
    before = _anonymous_bytes()
    sparse = load_model(path, params).sparse
    weights = _anonymous_bytes() - before - vocabulary
    file, metadata = open_gguf(path), read_gguf(open_gguf(path))
    whole = adapter.claim(file) - set(metadata.nonzeros if metadata else ())  # the head
    adapter.release()
    dense = sum(tensor.size for tensor in file.tensors if tensor.name in whole)
    return {
        "vocabulary": vocabulary,
        "weights": weights,
        "packed": sparse.packed_bytes - dense if sparse else 0,
        "plain": sparse.dense_bytes - dense if sparse else 0,
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
    adapter.gains = lambda file: False  # from here on, files are loaded as they stand
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


def _table(found: dict[Case, dict[str, Any]]) -> str:
    lines = [
        "| model | | decode, tok/s | × stock | × dense layout | bits / weight | GB/s "
        "| prefill, tok/s | × stock | memory, MB | file, MB | × file | load, s |",
        "|" + " --- |" * 13,
    ]
    for case, measured in found.items():
        those = [who for who in (*_ENVIRONMENT, _Q2_K) if who in measured["samples"]]
        lines += [_row(case, who, measured) for who in those]
    return "\n".join(lines)


def _row(case: Case, who: str, measured: dict[str, Any]) -> str:
    weighed, samples = measured["bytes"], measured["samples"]
    own, stock, layout = (samples[name] for name in (who, "stock", "dense layout"))
    decode, prefill = f"tg{_DECODE}", f"pp{_PREFILL}"
    plain = weighed["sparse"]["plain"]
    packed = weighed[who]["packed"] or plain
    memory, file = (weighed[who][part] / 1e6 for part in ("weights", "file"))
    bits = _Q2_K_BITS if who == _Q2_K else 8 * case.bytes_each * packed / plain
    rate = (weighed[who]["weights"] - case.unread) * by_process(own[decode]).mean() / 1e9
    cells = (
        case.name, who, middle(own, decode, 1), times(stock, own, decode),
        times(layout, own, decode), f"{bits:.2f}",
        f"{rate:.1f} of {measured['bandwidth']:.0f}", middle(own, prefill, 0),
        times(stock, own, prefill), f"{memory:.0f}", f"{file:.0f}", f"{memory / file:.2f}",
        middle(own, "load", 2),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _page(
    found: dict[Case, dict[str, Any]],
    processes: int,
    rounds: int,
    threads: int,
    agreement: list[dict[str, Any]],
    bounds: list[tuple[str, float, float, float]],
) -> str:
    bandwidth = statistics.median(one["bandwidth"] for one in found.values())
    lines = [
        "# Sparse weights in llama.cpp, measured",
        "",
        f"Written by `benchmarks/sparse_speed.py`: {threads} threads, {processes} fresh processes "
        f"of each contender, {rounds} rounds in each, in which all take turns; means ± standard "
        "deviations of the processes, ratios with 95 % intervals over pairs of processes. "
        "*stock* is llama-cpp-python on the same file. *dense layout* is our kernels with "
        "the zeros left in: what stands between it and *sparse* is sparsity, what stands between "
        "it and *stock* is the kernel. Both run the head, too. 1B is a Llama of random weights, 16 "
        "blocks of 2048 / 8192, a vocabulary of 32,768, head and embedding dense in Q8_0; "
        "SmolLM2-135M is what `edgeprune build --task medqa` makes at this sparsity, its "
        "embedding, which is its head, in the same type, unpruned. Bits are those of pruned "
        "tensors. Memory is what loading adds where nothing is mapped, but for the vocabulary, "
        "which is the same for all; the file of *sparse* is the packed one; load is with a "
        f"mapping. Prefill: {_PREFILL} tokens; decode: {_DECODE} behind 64. GB/s: bytes of "
        "weights that a token reads, times tokens per second, of the rate at which this shared "
        "machine read memory just then.",
        "",
        f"{sentence()} It reads memory at {bandwidth:.1f} GB/s with {threads} threads, in the "
        "median over these cases.",
        "",
        _table(found),
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
    for compared in agreement:
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
            *(f"| {name} | {value:.3f} |" for name, value in compared["perplexity"].items()),
            "",
            "| of 100 greedy answers to medqa, equal | 1 token | 8 tokens |",
            "| --- | --- | --- |",
            *(
                f"| {pair} | " + " | ".join(map(str, equal)) + " |"
                for pair, equal in compared["pairs"].items()
            ),
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
