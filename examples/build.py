"""A build from Python, small enough for a minute: SmolLM2-135M pruned for MedQA, offline.

python examples/build.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

from edgeprune import Recipe, build
from edgeprune.support.progress import Bars

SMALL = {
    "data.samples": 4,
    "data.length": 128,
    "measurement.eval_rows": 20,
    "measurement.perplexity_tokens": 512,
    "measurement.processes": 2,
}


def main(model: str = "smollm2-135m", folder: str = "builds/example") -> None:
    """Build it, and print what pruning cost."""
    recipe = Recipe.of(SMALL, model=model, task="medqa", method="wanda", sparsity=0.4)
    result = build(recipe, Path(folder), Bars())
    for name, found in result.manifest.results.artifacts.items():
        nats, decode = found.nats_per_answer_token, found.decode
        print(f"{name}: {nats.value:.2f} nats ({nats.low:.2f}-{nats.high:.2f}), ", end="")
        print(f"decode {decode.median:.1f} tokens/s, {found.file_bytes / 1e6:.1f} MB")
    print(result.artifact)


if __name__ == "__main__":
    main(*sys.argv[1:])
