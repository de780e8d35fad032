"""Export and packing speed: ours beside llama.cpp's own quantiser and the disk's own speed.

    python benchmarks/export_speed.py            # writes docs/measured/export.md
    python benchmarks/export_speed.py --shape 135m --out /dev/stdout

llama.cpp quantises from file to file (`llama_model_quantize`); it is given the F32 file of the same
model. Rounds are interleaved; each export is a process of its own and its time is that of the
export alone. Memory is the peak above what the process held before the export, mapped file pages
left out.
"""

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil

from edgeprune.support.environment import sentence

_silence: Any = None
_TYPES = ("f16", "q8_0", "q4_0")
_NAMES = {"135m": "SmolLM2-135M", "1.5b": "A 1.5B Llama of random bfloat16 weights"}


@click.command()
@click.option("--shape", "shapes", multiple=True, default=["135m", "1.5b"], show_default=True)
@click.option("--rounds", default=5)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/export.md"))
@click.option("--job", hidden=True)
def main(shapes: tuple[str, ...], rounds: int, out: Path, job: str | None) -> None:
    if job:
        click.echo(json.dumps(_job(*job.split("|"))))
        return
    lines = [
        "# Export speed, measured",
        "",
        "Written by `benchmarks/export_speed.py`. *ours* exports the checkpoint and checks "
        "what it wrote, *unproven* leaves the check out; *llama.cpp* quantises an F32 file of it "
        "(`llama_model_quantize`); *disk* copies what we wrote. All end with their "
        "bytes on the disk. Rounds are interleaved, each in a process of its own. Memory is the "
        "peak of private memory above what the process held "
        "before.",
        "",
        sentence(),
    ]
    for shape in shapes:
        lines += ["", f"## {_NAMES[shape]}", "", *_table(shape, rounds)]
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _table(shape: str, rounds: int) -> list[str]:
    Path("ablations").mkdir(exist_ok=True)  # on the disk, where /tmp may be memory
    with tempfile.TemporaryDirectory(dir="ablations") as name:
        folder = Path(name)
        model = "smollm2-135m" if shape == "135m" else str(_random_model(folder / "model"))
        _child("ours", model, "f32", folder / "f32.gguf")
        samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for kind in _TYPES:
                for who in ("ours", "ours, unproven", "llama.cpp", "disk"):
                    source = model if who.startswith("ours") else str(folder / "f32.gguf")
                    if who == "disk":
                        source = str(folder / f"ours-{kind}.gguf")
                    found = _child(who, source, kind, folder / f"{who}-{kind}.gguf")
                    samples.setdefault((kind, who), []).append(found)
    lines = [
        f"| type | who | seconds (median of {rounds}, range) | MB/s written | peak MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (kind, who), times in samples.items():
        seconds = [one["seconds"] for one in times]
        middle = statistics.median(seconds)
        lines.append(
            f"| {kind} | {who} | {middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f}) "
            f"| {times[0]['bytes'] / 1e6 / middle:.0f} "
            f"| {max(one['memory'] for one in times) / 1e6:.0f} |"
        )
    return lines


def _child(who: str, source: str, kind: str, target: Path) -> dict[str, Any]:
    job = "|".join((who, source, kind, str(target)))
    done = subprocess.run(
        [sys.executable, __file__, "--job", job], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _job(who: str, source: str, kind: str, target: str) -> dict[str, Any]:
    work = {
        "ours": _ours, "ours, unproven": _unproven, "llama.cpp": _llama_cpp, "disk": _disk,
    }[who]  # fmt: skip
    seconds, memory = work(source, kind, Path(target))
    return {"seconds": seconds, "memory": memory, "bytes": Path(target).stat().st_size}


def _ours(source: str, kind: str, target: Path) -> tuple[float, int]:
    import llama_cpp  # noqa: F401  # neither side's imports are measured
    import torch  # noqa: F401

    from edgeprune.models import open_checkpoint
    from edgeprune.pipeline.job import dense_model
    from edgeprune.planning.tensors import table
    from edgeprune.support.progress import Quiet
    from exporters.base import StorageRequest
    from exporters.gguf.export import plan

    model = dense_model(open_checkpoint(source))
    watch = _Peak()
    start = time.perf_counter()
    file = plan(model, StorageRequest(kind))
    with Quiet().stage("export", file.steps) as stage:
        file.export(model, table(file.tensors), target, None, "benchmark", stage)
    return time.perf_counter() - start, watch.stop()


def _unproven(source: str, kind: str, target: Path) -> tuple[float, int]:
    import llama_cpp  # noqa: F401
    import torch  # noqa: F401

    from edgeprune.models import open_checkpoint
    from edgeprune.pipeline.job import dense_model
    from exporters.base import StorageRequest
    from exporters.gguf.hyperparameters import read_config
    from exporters.gguf.plan import plan_tensors
    from exporters.gguf.write import write

    model, wanted = dense_model(open_checkpoint(source)), StorageRequest(kind)
    watch = _Peak()
    start = time.perf_counter()
    config, family = read_config(model.folder)
    tensors = plan_tensors(model, config, family, wanted)
    write(target, model, config, family, tensors, wanted, None, "benchmark", lambda: None)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - start, watch.stop()


def _llama_cpp(source: str, kind: str, target: Path) -> tuple[float, int]:
    import llama_cpp
    from llama_cpp import llama_cpp as api

    global _silence  # noqa: PLW0603  # llama.cpp calls it until the process ends
    _silence = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(_silence, ctypes.c_void_p(0))
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    watch = _Peak()
    start = time.perf_counter()
    if api.llama_model_quantize(source.encode(), str(target).encode(), ctypes.byref(params)):
        raise SystemExit("llama.cpp failed")
    with target.open("rb") as file:
        os.fsync(file.fileno())  # as our export does
    return time.perf_counter() - start, watch.stop()


def _disk(source: str, _kind: str, target: Path) -> tuple[float, int]:
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - start, 0


class _Peak:
    """The most private memory above what there was at the start, looked at every 5 ms."""

    def __init__(self) -> None:
        import threading

        self._process = psutil.Process()
        self._start = self._now()
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, self._now() - self._start)

    def _now(self) -> int:
        memory = self._process.memory_info()
        return memory.rss - memory.shared


def _random_model(folder: Path) -> Path:
    """A Llama in the shape of Qwen2.5-1.5B, random bfloat16 weights, written block by block."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from edgeprune.models import open_checkpoint

    config = LlamaConfig(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, vocab_size=49152, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    folder.mkdir()
    config.save_pretrained(folder)
    small = {"model.embed_tokens.weight": (49152, 1536), "model.norm.weight": (1536,)}
    block = {
        "self_attn.q_proj": (1536, 1536), "self_attn.k_proj": (256, 1536),
        "self_attn.v_proj": (256, 1536), "self_attn.o_proj": (1536, 1536),
        "mlp.gate_proj": (8960, 1536), "mlp.up_proj": (8960, 1536), "mlp.down_proj": (1536, 8960),
        "input_layernorm": (1536,), "post_attention_layernorm": (1536,),
    }  # fmt: skip
    parts = [small] + [
        {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
        for i in range(28)
    ]
    for index, shapes in enumerate(parts):
        tensors = {n: torch.randn(s, dtype=torch.bfloat16) * 0.02 for n, s in shapes.items()}
        save_file(tensors, folder / f"model-{index:05d}.safetensors", {"format": "pt"})
    tokenizer = open_checkpoint("smollm2-135m").folder
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


if __name__ == "__main__":
    main()
