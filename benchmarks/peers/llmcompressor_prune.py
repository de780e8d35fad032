"""The peer side of the pruning benchmark: llmcompressor's time, memory and weights.

Prunes a local checkpoint with llmcompressor's own Wanda or SparseGPT on exactly the token
sequences it is given: one sequence a batch, in their order, not cut, padded or shuffled. All
linear layers inside the decoder blocks are pruned, block after block. The time is that of the
``oneshot`` call alone (loading and saving the model left out); the memory is the process's peak.

It imports nothing of edgeprune and needs an environment of its own, since llmcompressor pins
torch and transformers:

    python3.11 -m venv /tmp/peer/.venv && /tmp/peer/.venv/bin/pip install llmcompressor
    /tmp/peer/.venv/bin/python benchmarks/peers/llmcompressor_prune.py --model FOLDER \
        --tokens tokens.safetensors --method wanda --sparsity 0.5 --pattern 0:0 --out FOLDER

``OUT/model.safetensors`` holds the pruned weights, dense and in float32, under the names of the
source; standard output is one line of JSON, everything else goes to standard error.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODIFIERS = {"wanda": "WandaPruningModifier", "sparsegpt": "SparseGPTModifier"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a transformers folder")
    parser.add_argument("--tokens", type=Path, required=True, help="safetensors with 'general'")
    parser.add_argument("--method", choices=MODIFIERS, required=True)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", default="0:0", help="0:0 is unstructured, else N:M")
    parser.add_argument("--dtype", default="float32", help="what the model runs in")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported, further down
    with contextlib.redirect_stdout(sys.stderr):  # llmcompressor logs to standard output
        result = measure(options)
    print(json.dumps(result))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    seconds = prune(model, load_file(options.tokens)["general"], options)
    peak = peak_memory()
    save(model, options.model, options.out)
    return {
        "method": options.method,
        "sparsity": options.sparsity,
        "pattern": options.pattern,
        "seconds": round(seconds, 2),
        "peak_rss": peak,
        "versions": {name: version(name) for name in ("llmcompressor", "torch", "transformers")},
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def peak_memory() -> int:
    """Bytes; getrusage would count what the parent held when it started this process, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def prune(model: Any, tokens: Any, options: argparse.Namespace) -> float:
    """Prune ``model`` in place.

    Returns:
        Seconds of the ``oneshot`` call.
    """
    from llmcompressor import oneshot
    from llmcompressor.modifiers import pruning
    from torch.utils.data import DataLoader

    # Blocks as targets: with "Linear" llmcompressor names a layer "lm_head.", so that
    # ignore=["lm_head"] misses it and a tied head, hence the embedding, is pruned too.
    recipe = getattr(pruning, MODIFIERS[options.method])(
        sparsity=options.sparsity,
        mask_structure=options.pattern,
        targets=sorted(model._no_split_modules),
    )
    batches = DataLoader([{"input_ids": sequence} for sequence in tokens])
    start = time.perf_counter()
    oneshot(model=model, recipe=recipe, dataset=batches, pipeline="sequential")
    return time.perf_counter() - start


def save(model: Any, source: Path, folder: Path) -> None:
    """Write the model's weights to one file, as the tensors that ``source`` has."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    state = model.state_dict()
    tensors: dict[str, Any] = {}
    for file in source.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            tensors |= {name: state[name].float().clone() for name in stored.keys()}  # noqa: SIM118
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
