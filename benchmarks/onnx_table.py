"""ONNX in every precision, plain and packed, beside onnxruntime-genai.

Writes docs/measured/onnx.md.

    python benchmarks/onnx_table.py --task medqa --patterns unstructured,2:4

Each model is opened in a process of its own, as stock onnxruntime opens it and as edgeprune does,
with sparse products. Decode is a run of steps after a prompt; contenders take turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.runtime.llamacpp import availability
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json

_PROMPT, _STEPS, _TIMES = 256, 48, 5
_PROSE = (
    "Written by `benchmarks/onnx_table.py`: SmolLM2-135M pruned for {task} to 50 %, in onnxruntime "
    "on the CPU with 2 threads. *stock*: as onnxruntime opens the file, where it rebuilds packed "
    "weights itself when it makes the session. The others are opened by edgeprune: pruned weights "
    "are multiplied by without their zeros; *dense products* leaves them to onnxruntime and "
    "rebuilds packed ones one by one. *genai's graph* is what onnxruntime-genai's builder makes of "
    "the dense model; *genai's loop* runs our folder. Accuracy and nats are those of the build on "
    "{rows} rows, with sparse products. Peak memory is that of the process up to then, session and "
    "{steps} steps. Sizes are of the model and the weights beside it. Medians of {rounds} rounds "
    "in which all take turns, each in a new process that times everything {times} times and takes "
    "the median; ± is the standard deviation of the rounds."
)


@click.command()
@click.option("--task", default="medqa")
@click.option("--patterns", default="unstructured,2:4")
@click.option("--types", default="fp32,fp16,int8,int4")
@click.option("--rounds", default=5)
@click.option("--rows", default=100)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/onnx.md"))
@click.option("--job", hidden=True)
def main(
    task: str, patterns: str, types: str, rounds: int, rows: int, out: Path, job: str | None
) -> None:  # fmt: skip
    if job:
        how, path = job.split("|")
        click.echo(json.dumps(_JOBS[how](Path(path))))
        return
    lines = [
        "# ONNX, measured",
        "",
        _PROSE.format(task=task, steps=_STEPS, rounds=rounds, rows=rows, times=_TIMES),
        "",
        sentence(),
    ]
    for pattern in patterns.split(","):
        lines += ["", f"## {pattern}", "", *_table(task, pattern, types.split(","), rounds, rows)]
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _table(task: str, pattern: str, types: list[str], rounds: int, rows: int) -> list[str]:
    from edgeprune import Recipe, build
    from edgeprune.support.progress import Bars

    lines = [
        "| type | | MB | session, s | peak MB | prefill, tok/s | decode, tok/s | accuracy "
        "| nats / answer token | zeros kept |",
        "|" + " --- |" * 10,
    ]
    folder = Path("ablations/onnx") / pattern.replace(":", "of")
    shares = []
    for kind in types:
        recipe = Recipe.of(
            {"measurement": {"eval_rows": rows, "perplexity_tokens": 2048, "processes": 1}},
            task=task, target="onnx", type=kind, pattern=pattern, pack=True,
        )  # fmt: skip
        built = build(recipe, folder, Bars(), replace=True)
        assert built
        manifest, packed = built.manifest, folder / "model.packed.onnx"
        sizes = manifest.packed
        assert sizes
        shares.append(f"{kind} {sizes.packed_tensor_bytes / sizes.tensor_bytes:.3f}")
        models = {
            "dense": ("stock", folder / manifest.dense_artifact.file),
            "pruned, stock": ("stock", folder / "model.onnx"),
            "pruned": ("sparse", folder / "model.onnx"),
            "packed, stock": ("stock", packed),
            "packed, dense products": ("dense", packed),
            "packed": ("sparse", packed),
            "pruned, genai's loop": ("genai", folder),
        }
        if graph := _built_by_genai(kind, recipe.model.name):
            models["dense, genai's graph"] = ("stock", graph / "model.onnx")
        samples = _samples(folder / f"{kind}-samples.json", models, rounds)
        results = manifest.results.artifacts
        tensors = manifest.artifact.pruned_tensors
        zeros = sum(t.zeros for t in tensors) / sum(t.size for t in tensors)
        for name, found in samples.items():
            quality = " | "
            if name in results:
                accuracy, nats = results[name].accuracy, results[name].nats_per_answer_token
                quality = f"{accuracy.value:.3f} | {nats.value:.3f}"
            size = _bytes(models[name][1]) / 1e6
            lines.append(
                f"| {kind} | {name} | {size:.0f} | {_middle(found, 'session', 2)} "
                f"| {max(s['peak'] for s in found) / 1e6:.0f} | {_middle(found, 'prefill', 0)} "
                f"| {_middle(found, 'decode', 1)} | {quality} "
                f"| {f'{zeros:.1%}' if name == 'pruned' else ''} |"
            )
    return [*lines, "", f"Packed, the pruned tensors take of their bytes: {', '.join(shares)}."]


def _samples(
    kept: Path, models: dict[str, tuple[str, Path]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Every contender's measurements; those of an earlier run are not repeated."""
    made_by = [list(models), rounds, _TIMES, availability.fingerprint()]
    known = read_json(kept) or {}
    if known.get("made_by") != made_by:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, (how, path) in models.items():
                samples[name].append(_child(how, path))
        known = {"made_by": made_by, "samples": samples}
        write_json(kept, known)
    return known["samples"]


def _built_by_genai(kind: str, model: str) -> Path | None:
    """The dense model as onnxruntime-genai's own builder makes it; it has no fp16 for CPUs."""
    if kind == "fp16":
        return None
    from edgeprune.models import open_checkpoint

    target = Path(f"ablations/onnx/genai-{kind}")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", kind]
    command += ["-i", str(open_checkpoint(model).folder), "-o", str(target), "-c", str(target)]
    if kind != "fp32":  # as ours: 8-bit activations, and a head of 8 bits
        command += ["--extra_options", "accuracy_level=4", "block_size=32", "algo_config=rtn_last"]
    if not (target / "model.onnx").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return target


def _middle(samples: list[dict[str, float]], key: str, digits: int) -> str:
    values = [sample[key] for sample in samples]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.median(values):.{digits}f} ± {spread:.{digits}f}"


def _bytes(path: Path) -> int:
    path = path / "model.onnx" if path.is_dir() else path
    return sum(p.stat().st_size for p in (path, path.with_name(f"{path.name}.data")))


def _child(how: str, path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--job", f"{how}|{path}"],
        check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _with_runner(path: Path, how: str) -> dict[str, float]:
    import onnxruntime

    from edgeprune.runtime.onnxruntime.loading import Opened
    from runtime_tests.runners import onnxruntime as ort

    if how == "stock":
        ort.open_session = lambda path, options: Opened(
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        )
    os.environ["EDGEPRUNE_SPARSE"] = str(int(how == "sparse"))
    runner = ort.OnnxRuntime(path, 2)
    runner.decode_seconds(_PROMPT, 2)
    peak = runner.peak_memory()
    return {
        "session": runner.load_seconds,
        "prefill": _PROMPT / _again(lambda: runner.prefill_seconds(_PROMPT)),
        "decode": _STEPS / _again(lambda: runner.decode_seconds(_PROMPT, _STEPS)),
        "peak": peak,
    }


def _with_genai(folder: Path) -> dict[str, Any]:
    """Its own generation loop, on our folder."""
    import onnxruntime_genai as genai

    from runtime_tests.counters import peak_memory

    start = time.perf_counter()
    config = genai.Config(str(folder))
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}')
    model = genai.Model(config)
    session = time.perf_counter() - start
    ids = [100 + i * 7919 % 49000 for i in range(_PROMPT)]

    def run() -> list[float]:
        settings = genai.GeneratorParams(model)
        settings.set_search_options(
            max_length=_PROMPT + _STEPS + 1, min_length=_PROMPT + _STEPS + 1
        )
        generator = genai.Generator(model, settings)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        middle = time.perf_counter()
        for _ in range(_STEPS):
            generator.generate_next_token()
        return [middle - start, time.perf_counter() - middle]

    run()
    peak = peak_memory()
    prefill, decode = map(statistics.median, zip(*[run() for _ in range(_TIMES)], strict=True))
    return {
        "session": session, "prefill": _PROMPT / prefill, "decode": _STEPS / decode, "peak": peak,
    }  # fmt: skip


def _again(seconds: Callable[[], float]) -> float:
    return statistics.median(seconds() for _ in range(_TIMES))


_JOBS = {
    "stock": lambda path: _with_runner(path, "stock"),
    "dense": lambda path: _with_runner(path, "dense"),
    "sparse": lambda path: _with_runner(path, "sparse"),
    "genai": _with_genai,
}


if __name__ == "__main__":
    main()
