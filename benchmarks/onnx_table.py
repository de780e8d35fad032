"""ONNX in every precision, plain and packed, beside onnxruntime-genai.

Writes docs/measured/onnx.md.

    python benchmarks/onnx_table.py --task medqa --patterns unstructured,2:4

Each model is opened as stock onnxruntime opens it and as edgeprune does, with sparse products:
fresh processes of all contenders take turns, as everywhere in the product (`runtime_tests.timing`).
"""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.timed import Samples, in_turns, middle, times, way
from edgeprune.runtime.llamacpp import availability
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from runtime_tests.bench import Lengths
from runtime_tests.counters import peak_memory
from runtime_tests.serve import serve
from runtime_tests.timing import Contender

_THREADS = 2
_LENGTHS = Lengths((256,), (48,), threads=(_THREADS,), first_token=False)
_PREFILL, _DECODE = "pp256", "tg48"
_PROSE = (
    "Written by `benchmarks/onnx_table.py`: SmolLM2-135M pruned for {task} to 50 %, in onnxruntime "
    "on the CPU with 2 threads. *stock*: as onnxruntime opens the file, where it rebuilds packed "
    "weights itself when it makes the session. The others are opened by edgeprune: pruned weights "
    "are multiplied by without their zeros; *dense products* leaves them to onnxruntime and "
    "rebuilds packed ones one by one. *genai's graph* is what onnxruntime-genai's builder makes of "
    "the dense model; *genai's loop* runs our folder. Accuracy and nats are those of the build on "
    "{rows} rows, with sparse products. Peak memory is the process's, session, 256 tokens of a "
    "prompt and 48 more. Sizes are of the model and the weights beside it. {processes} fresh "
    "processes of each, rounds in each: {rounds}, in which all take turns: means ± standard "
    "deviations of the processes; × dense with a 95 % interval over pairs of processes."
)


@click.command()
@click.option("--task", default="medqa")
@click.option("--patterns", default="unstructured,2:4")
@click.option("--types", default="fp32,fp16,int8,int4")
@click.option("--processes", default=5, help="of each contender")
@click.option("--rounds", default=2, help="in each process")
@click.option("--rows", default=100)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/onnx.md"))
@click.option("--serve", "served", nargs=2, hidden=True)
def main(
    task: str, patterns: str, types: str, processes: int, rounds: int, rows: int, out: Path,
    served: tuple[str, str] | None,
) -> None:  # fmt: skip
    if served:
        serve(partial(_OPENERS[served[0]], Path(served[1])))
        return
    lines = [
        "# ONNX, measured",
        "",
        _PROSE.format(task=task, processes=processes, rounds=rounds, rows=rows),
        "",
        sentence(),
    ]
    for pattern in patterns.split(","):
        lines += [
            "",
            f"## {pattern}",
            "",
            *_table(task, pattern, types.split(","), processes, rounds, rows),
        ]
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _table(
    task: str, pattern: str, types: list[str], processes: int, rounds: int, rows: int
) -> list[str]:
    from edgeprune import Recipe, build
    from edgeprune.support.progress import Bars

    lines = [
        "| type | | MB | session, s | peak MB | prefill, tok/s | × dense | decode, tok/s | × dense "
        "| accuracy | nats / answer token | zeros kept |",
        "|" + " --- |" * 12,
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
        samples = _samples(folder / f"{kind}-timings.json", models, processes, rounds)
        results = manifest.results.artifacts
        tensors = manifest.artifact.pruned_tensors
        zeros = sum(t.zeros for t in tensors) / sum(t.size for t in tensors)
        for name, path in models.items():
            found, quality = samples[name], " | "
            if name in results:
                accuracy, nats = results[name].accuracy, results[name].nats_per_answer_token
                quality = f"{accuracy.value:.3f} | {nats.value:.3f}"
            size = _bytes(path[1]) / 1e6
            lines.append(
                f"| {kind} | {name} | {size:.0f} | {middle(found, 'load', 2)} "
                f"| {max(found['peak_memory'])[0] / 1e6:.0f} | {middle(found, _PREFILL, 0)} "
                f"| {times(samples['dense'], found, _PREFILL)} | {middle(found, _DECODE, 1)} "
                f"| {times(samples['dense'], found, _DECODE)} | {quality} "
                f"| {f'{zeros:.1%}' if name == 'pruned' else ''} |"
            )
    return [*lines, "", f"Packed, the pruned tensors take of their bytes: {', '.join(shares)}."]


def _samples(
    kept: Path, models: dict[str, tuple[str, Path]], processes: int, rounds: int
) -> dict[str, Samples]:
    """Every contender's measurements; those of an earlier run are not repeated."""
    made_by = [list(models), processes, rounds, availability.fingerprint()]
    known = read_json(kept) or {}
    if known.get("made_by") != made_by:
        ways = {name: _way(*how_and_path) for name, how_and_path in models.items()}
        known = {"made_by": made_by, "samples": in_turns(ways, processes, rounds)}
        write_json(kept, known)
    return known["samples"]


def _way(how: str, path: Path) -> Contender:
    if how in _OPENERS:
        command = (sys.executable, __file__, "--serve", how, str(path))
        return way(path, _LENGTHS, command=command)
    return way(path, _LENGTHS, {"EDGEPRUNE_SPARSE": str(int(how == "sparse"))})


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


def _bytes(path: Path) -> int:
    path = path / "model.onnx" if path.is_dir() else path
    return sum(p.stat().st_size for p in (path, path.with_name(f"{path.name}.data")))


def _stock(path: Path) -> Any:
    """As onnxruntime opens it, without edgeprune's operator."""
    import onnxruntime

    from edgeprune.runtime.onnxruntime.loading import Opened
    from runtime_tests.runners import onnxruntime as ort

    ort.open_session = lambda path, options: Opened(
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    )
    return ort.OnnxRuntime(path, _THREADS)


class _Genai:
    """onnxruntime-genai's own generation loop, on our folder."""

    def __init__(self, folder: Path):
        import onnxruntime_genai as genai

        start = time.perf_counter()
        config = genai.Config(str(folder))
        threads = {"intra_op_num_threads": _THREADS}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._genai, self._model = genai, genai.Model(config)
        self._seconds = time.perf_counter() - start

    def info(self) -> dict[str, Any]:
        return {"version": "onnxruntime-genai", "load_seconds": self._seconds}

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        return self._run(tokens, 0)[0]

    def decode_seconds(self, prompt_tokens: int, tokens: int, batch: int = 1) -> float:
        return self._run(prompt_tokens, tokens)[1]

    def peak_memory(self) -> int:
        return peak_memory()

    def _run(self, prompt: int, steps: int) -> tuple[float, float]:
        """Seconds to the first token, and of so many after it."""
        settings, most = self._genai.GeneratorParams(self._model), prompt + steps + 1
        settings.set_search_options(max_length=most, min_length=most)
        generator = self._genai.Generator(self._model, settings)
        start = time.perf_counter()
        generator.append_tokens([100 + i * 7919 % 49000 for i in range(prompt)])
        generator.generate_next_token()
        middle = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        return middle - start, time.perf_counter() - middle


_OPENERS = {"stock": _stock, "genai": _Genai}


if __name__ == "__main__":
    main()
