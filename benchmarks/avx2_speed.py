"""The AVX2 kernels beside a llama.cpp that is built for AVX2 alone, on any newer processor.

Writes docs/measured/avx2.md. The files are those of sparse_speed.py; llama.cpp is built like this:

    on="-DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DBUILD_SHARED_LIBS=ON"
    cmake -S llama.cpp -B /tmp/avx2 -DGGML_NATIVE=OFF $on
    cmake --build /tmp/avx2 --target llama
    python benchmarks/avx2_speed.py /tmp/avx2/bin
"""

import os
from pathlib import Path
from typing import Any

import click

from benchmarks.sparse_speed import CASES, Case, measured
from benchmarks.timed import middle, times
from edgeprune.support.environment import cores, sentence

_CASES = ("1B Q8_0 50 %", "1B Q4_0 50 %", "1B Q4_0:3", "SmolLM2-135M Q8_0 50 %",
          "SmolLM2-135M Q4_0:3")  # fmt: skip


@click.command()
@click.argument("libraries", type=click.Path(exists=True, path_type=Path))
@click.option("--processes", default=2, help="of each contender")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/avx2.md"))
def main(libraries: Path, processes: int, out: Path) -> None:
    os.environ["LLAMA_CPP_LIB_PATH"], os.environ["EDGEPRUNE_KERNEL"] = str(libraries), "avx2"
    found = {
        case: measured(case, cores(), processes, 1)["samples"]
        for case in CASES
        if case.name in _CASES
    }
    out.write_text(_page(found, processes), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _page(found: dict[Case, dict[str, Any]], processes: int) -> str:
    lines = [
        "# AVX2, measured",
        "",
        "Written by `benchmarks/avx2_speed.py`: the kernels for AVX2 on this processor, which has "
        "more, beside llama.cpp built for AVX2, FMA, F16C and BMI2 alone, on the same file. "
        f"{processes} fresh processes of each take turns. *as it is*: zeros and codes in the width "
        "of the type, which is how matrices stand that nothing was asked of; *packed*: without "
        "zeros, or in few codes. What the runtime packs by itself is decided in `isa_avx2.cpp`.",
        "",
        sentence(),
        "",
        "| model | | decode, tok/s | × stock | prefill, tok/s | × stock |",
        "|" + " --- |" * 6,
    ]
    names = {"stock": "stock", "dense layout": "as it is", "sparse": "packed"}
    for case, samples in found.items():
        for who, shown in names.items():
            own, stock = samples[who], samples["stock"]
            cells = (
                case.name, shown, middle(own, "tg48", 1), times(stock, own, "tg48"),
                middle(own, "pp256", 0), times(stock, own, "pp256"),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
