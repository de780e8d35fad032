"""The density above which a matrix is better left to llama.cpp, kernel by kernel.

    python benchmarks/break_even.py

Decode of a random Llama (four blocks of a 1B model) at falling sparsity, sparse beside stock, in
fresh processes that take turns. The densities at which both are as fast stand in the kernels'
tables (`edgeprune/runtime/kernels/isa_*.cpp`, the last argument of `table`).
"""

from pathlib import Path

import click

from benchmarks.timed import in_turns, times, way
from edgeprune.runtime import library
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama
from edgeprune.support.environment import sentence
from runtime_tests.bench import Lengths

_DENSITIES = (0.5, 0.7, 0.8, 0.9, 1.0)


@click.command()
@click.option("--processes", default=4, help="of each contender")
@click.option("--threads", default=2)
def main(processes: int, threads: int) -> None:
    click.echo(sentence())
    folder = Path("ablations/break-even")
    folder.mkdir(parents=True, exist_ok=True)
    lengths = Lengths((64,), (48,), threads=(threads,), first_token=False)
    kernels = [name for name in library.kernels() if name != "portable"]
    for kind in library.TYPES:
        for density in _DENSITIES:
            path = folder / f"{kind}-{density}.gguf"
            if not path.exists():
                sizes = Sizes((kind,) * 4, width=2048, feed_forward=8192, heads=32, kv_heads=8)
                write_random_llama(path, sizes, 1 - density)
            ways = {"stock": way(path, lengths, {"EDGEPRUNE_SPARSE": "0"})} | {
                name: way(path, lengths, {"EDGEPRUNE_KERNEL": name, "EDGEPRUNE_LAYOUT": "sparse"})
                for name in kernels
            }
            found = in_turns(ways, processes, 1)
            shown = (f"{name} {times(found['stock'], found[name], 'tg48')}x" for name in kernels)
            click.echo(f"{kind} density {density:.0%}: {', '.join(shown)} of stock's speed")


if __name__ == "__main__":
    main()
