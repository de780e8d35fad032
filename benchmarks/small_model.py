"""Where a small model's decoding time goes, by `perf`: stock llama.cpp and edgeprune's kernels.

Writes docs/measured/small-model.md. Needs Linux's perf, and files that sparse_speed.py has made.

    python benchmarks/small_model.py

perf samples a process that decodes; a sample belongs to the function that it hit, in one of a few
groups. Threads that wait for each other at a barrier spin, so waiting is sampled as well.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from benchmarks.sparse_speed import CASES
from edgeprune.support.environment import sentence
from runtime_tests.child import start

_PAGE = Path("docs/measured/small-model.md")
_TOKENS, _SECONDS = 128, 12
_WAYS = {"stock": {"EDGEPRUNE_SPARSE": "0"}, "edgeprune": {}}
# Groups of functions, by their names or libraries; the first that fits counts.
_GROUPS = {
    "products, edgeprune": re.compile(r"libedgeprune"),
    "products, llama.cpp": re.compile(r"gemv|gemm|vec_dot|mul_mat|tinyblas|sgemm"),
    "waiting for the other thread": re.compile(r"libgomp|barrier|sched_yield|thread_cpu_relax"),
    "attention": re.compile(r"flash_attn|soft_max"),
    "norms, rope, adding, activation": re.compile(r"norm|rope|_add|silu|swiglu|glu|_mul\b"),
    "rounding activations": re.compile(r"quantize"),
    "copies and look-ups": re.compile(r"cpy|dup|get_rows|set_rows|memcpy|memmove|memset"),
    "python, sampling, the rest": re.compile(r""),
}


@click.command()
@click.option("--only", multiple=True, default=("SmolLM2-135M Q4_0:3", "SmolLM2-135M Q8_0 50 %"))
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(only: tuple[str, ...], out: Path) -> None:
    if not shutil.which("perf"):
        sys.exit("perf is not installed here.")
    parts = []
    for case in (case for case in CASES if case.name in only):
        found = {name: _profiled(case.path, wants) for name, wants in _WAYS.items()}
        parts += [f"## {case.name}", "", *_table(found), ""]
    out.write_text("\n".join([*_head(), *parts]), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _profiled(path: Path, wants: dict[str, str]) -> tuple[float, Counter[str]]:
    """Milliseconds a token, and how they divide into groups."""
    with start(path, 2, environment=wants) as child, tempfile.TemporaryDirectory() as folder:
        child.call("decode_seconds", prompt_tokens=64, tokens=_TOKENS)
        record = Path(folder) / "perf.data"
        command = ["perf", "record", "-F", "1999", "-o", str(record), "-p", str(child._process.pid)]
        perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds, end = [], time.monotonic() + _SECONDS
        while time.monotonic() < end:
            seconds.append(child.call("decode_seconds", prompt_tokens=64, tokens=_TOKENS))
        perf.terminate()
        perf.wait()
        shown = subprocess.run(
            ["perf", "report", "-i", record, "--no-children", "--stdio", "-F", "overhead,dso,sym",
             "-t", "|"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    groups = Counter[str]()
    for line in shown.splitlines():
        if match := re.match(r"\s*([\d.]+)%\s*\|(.*)", line):
            name = next(group for group, spelt in _GROUPS.items() if spelt.search(match[2]))
            groups[name] += float(match[1])
    return 1000 * min(seconds) / _TOKENS, groups


def _head() -> list[str]:
    return [
        "# What bounds a small model, by perf",
        "",
        "Written by `benchmarks/small_model.py`. Milliseconds of a decoded token behind 64, of two "
        "threads, divided by the functions that perf samples hit.",
        "",
        sentence(),
        "",
    ]


def _table(found: dict[str, tuple[float, Counter[str]]]) -> list[str]:
    lines = ["| ms a token | " + " | ".join(found) + " |", "|" + " --- |" * (1 + len(found))]
    for group in _GROUPS:
        cells = [f"{ms * groups[group] / groups.total():.2f}" for ms, groups in found.values()]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    cells = [f"{ms:.2f}" for ms, _ in found.values()]
    return [*lines, f"| all | {' | '.join(cells)} |"]


if __name__ == "__main__":
    main()
