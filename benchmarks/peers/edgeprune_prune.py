"""Our side of the pruning benchmark: the same tokens, the same JSON line as llmcompressor_prune.py.

    .venv/bin/python benchmarks/peers/edgeprune_prune.py --model FOLDER --tokens FILE \
        --method wanda --sparsity 0.5 --pattern 0:0 --out FOLDER

One general stream only, since that is all the peer can see. ``--as-peer`` takes over the setting
in which the peer differs: blocks run in float32.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from edgeprune.data.streams import Stream
from edgeprune.engine import Pruning, prune, runner
from edgeprune.formats.weights import save_tensors
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model
from edgeprune.planning.patterns import UNSTRUCTURED, parse
from edgeprune.planning.tensors import ModelPlan
from edgeprune.pruning.fusion import FusionRule
from edgeprune.support.environment import cores, describe
from edgeprune.support.progress import Quiet
from runtime_tests.counters import peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="safetensors with 'general'")
    parser.add_argument("--method", required=True)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", default="0:0", help="0:0 is unstructured, else N:M")
    parser.add_argument("--as-peer", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    if options.as_peer:
        runner.compute_dtype = lambda device: torch.float32
    tokens = load_file(options.tokens)["general"]
    pattern = UNSTRUCTURED if options.pattern == "0:0" else parse(options.pattern)
    pruning = Pruning(options.method, FusionRule("general"))
    plan = ModelPlan({}, pattern, options.sparsity)
    streams = {"general": Stream(tokens, torch.ones_like(tokens, dtype=torch.bool))}
    checkpoint = open_checkpoint(options.model)
    load_model(checkpoint)  # once before, with all that is imported for it, as the peer's is loaded
    start = time.perf_counter()
    pruned = prune(checkpoint, streams, pruning, plan, options.out / "work", Quiet())
    seconds = time.perf_counter() - start
    peak = peak_memory()
    weights = pruned.weights()
    tensors = {name: weights.read(name) for name in weights.names()}
    save_tensors(options.out / "model.safetensors", tensors, {"format": "pt"})
    print(
        json.dumps(
            {
                "method": options.method, "sparsity": options.sparsity, "pattern": options.pattern,
                "seconds": round(seconds, 2), "peak_rss": peak, "threads": torch.get_num_threads(),
                "dtype": str(runner.compute_dtype(torch.device("cpu"))).removeprefix("torch."),
                "versions": describe()["versions"],
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
