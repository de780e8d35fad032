"""The density above which a matrix is better left to llama.cpp, kernel by kernel.

    python benchmarks/break_even.py

Decode of a random Llama (four blocks of a 1B model) at falling sparsity, sparse beside stock, in
children that take turns. The densities at which both are as fast stand in the kernels' tables
(`edgeprune/runtime/kernels/isa_*.cpp`, the last argument of `table`).
"""

import os
import statistics
from pathlib import Path

import click

from benchmarks import sparse_speed
from edgeprune.runtime import library
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama
from edgeprune.support.environment import sentence

_DENSITIES = (0.5, 0.7, 0.8, 0.9, 1.0)


@click.command()
@click.option("--rounds", default=3)
@click.option("--threads", default=2)
def main(rounds: int, threads: int) -> None:
    click.echo(sentence())
    folder = Path("ablations/break-even")
    folder.mkdir(parents=True, exist_ok=True)
    kernels = [name for name in library.kernels() if name != "portable"]
    for kind in library.TYPES:
        for density in _DENSITIES:
            path = folder / f"{kind}-{density}.gguf"
            if not path.exists():
                sizes = Sizes((kind,) * 4, width=2048, feed_forward=8192, heads=32, kv_heads=8)
                write_random_llama(path, sizes, 1 - density)
            rates: dict[str, list[float]] = {}
            for _ in range(rounds):
                for name in ("stock", *kernels):
                    os.environ["EDGEPRUNE_KERNEL"] = name if name != "stock" else ""
                    who = "stock" if name == "stock" else "any density"
                    found = sparse_speed.child(path, who, threads)
                    rates.setdefault(name, []).append(found["decode"])
            stock = statistics.median(rates["stock"])
            shown = (f"{k} {statistics.median(rates[k]) / stock:.2f}x" for k in kernels)
            click.echo(f"{kind} density {density:.0%}: stock {stock:.0f} tok/s, {', '.join(shown)}")


if __name__ == "__main__":
    main()
