"""`edgeprune bench`."""

import csv
import io
import statistics
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.programs import ProgramType

if TYPE_CHECKING:
    from runtime_tests.programs import Program

_EPILOG = """\b
Examples:
  edgeprune bench builds/*/model.gguf
  edgeprune bench dense.gguf pruned.gguf --prefill 128,512 --decode 64 --threads 1,2
  edgeprune bench model.gguf --batch 1,4,8
  edgeprune bench model.onnx ./my-model --json > bench.json     # a folder runs in transformers
  edgeprune bench model.gguf --program llama-server --program "llama-server --no-repack"
  edgeprune bench model.gguf --program http://127.0.0.1:8080 --program /opt/new/llama-bench
"""

_COLUMNS = ("artifact", "size, MB", "runtime", "device", "threads", "test", "result", "x first")
_CSV = ("artifact", "device", "threads", "test", "unit", "median", "mean", "sd", "processes",
        "ratio", "ratio_low", "ratio_high")  # fmt: skip


class _Numbers(click.ParamType):
    name = "N[,N…]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            found = (0,)
        if min(found) < 1:
            self.fail(f"{value!r} is not a list of positive integers, such as 128,512.", param, ctx)
        return found


@click.command("bench", epilog=_EPILOG)
@click.argument("artifacts", nargs=-1, required=True)
@click.option(
    "--prefill",
    type=_Numbers(),
    default=(256,),
    help="Prompt lengths in tokens, comma-separated. [256]",
)
@click.option(
    "--decode",
    type=_Numbers(),
    default=(64,),
    help="Numbers of tokens to decode, comma-separated. [64]",
)
@click.option(
    "--depth",
    type=click.IntRange(1),
    default=64,
    help="Prompt length before the decoded tokens. [64]",
)
@click.option("--batch", type=_Numbers(), default=(1,), help="Batch sizes, comma-separated. [1]")
@click.option("--threads", type=_Numbers(), help="Numbers of threads, comma-separated. [all cores]")
@click.option(
    "--gpu", is_flag=True, help="Also run on GPUs; those that are not available are listed."
)
@click.option(
    "--program", "programs", multiple=True, type=ProgramType(),
    help="Also run GGUF files in llama-server, in llama-bench, in another OpenAI-style server "
    "whose command has {model} and {port} in it, or ask a server that runs. Repeatable.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1), default=5, show_default=True,
    help="Number of fresh processes of each artifact.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True,
    help="Number of rounds in each process, in which all take turns.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", show_default=True
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def command(
    artifacts: tuple[str, ...],
    threads: tuple[int, ...] | None,
    gpu: bool,
    programs: "tuple[Program, ...]",
    form: str,
    **lengths: Any,
) -> None:
    """Time GGUF and ONNX files and transformers models, in fresh processes that take turns.

    Figures are of the processes, each the geometric mean of its runs. Speeds are also compared
    with the first artifact's, with a 95 % interval over pairs of processes side by side.
    """
    from edgeprune.models import artifact_path
    from edgeprune.support.environment import conditions, cores
    from edgeprune.support.files import json_text
    from edgeprune.support.progress import Bars
    from runtime_tests.bench import Lengths, bench

    paths = {}
    for text in dict.fromkeys(artifacts):
        paths[text] = artifact_path(text)
    before = conditions()
    timed = Lengths(threads=threads or (cores(),), **lengths)
    found = bench(paths, timed, Bars().stage, on_gpus=gpu, programs=programs)
    record = {"environment": before} | found
    if form == "json":
        click.echo(json_text(record))
    elif form == "csv":
        click.echo(_csv(record), nl=False)
    else:
        click.echo(_markdown(record))


def _csv(record: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for row in record["rows"]:
        speeds, ratio = _by_process(row), row["ratio"] or {}
        writer.writerow(
            (row["artifact"], row["device"], row["threads"], row["test"], row["unit"],
             statistics.median(speeds), statistics.mean(speeds), _sd(speeds), len(speeds),
             *(ratio.get(end, "") for end in ("value", "low", "high")))
        )  # fmt: skip
    for one in record["not_run"]:
        writer.writerow((one["artifact"], one["device"], "", f"not run: {one['why']}"))
    return out.getvalue()


def _markdown(record: dict[str, Any]) -> str:
    """Print a table in llama-bench's form."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in record["rows"]:
        beside = "{value:.3f} ({low:.3f}-{high:.3f})".format(**row["ratio"]) if row["ratio"] else ""
        cells = (row["artifact"], _megabytes(row["bytes"]), row["runtime"], row["device"],
                 row["threads"], row["test"], _result(row), beside)  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for one in record["not_run"]:
        lines.append(f"| {one['artifact']} | | | {one['device']} | | not run: {one['why']} | | |")
    where = record["environment"]
    lines += [
        "",
        f"{where['processor']}, {where['cores']} cores, load {where['load']:.2f} before, governor "
        f"{where['governor']}; mean ± standard deviation of the processes, x first with a 95 % "
        "interval.",
    ]
    return "\n".join(lines)


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _result(row: dict[str, Any]) -> str:
    samples = _by_process(row)
    if row["unit"] == "B":
        return f"{max(samples) / 1e6:.0f} MB"
    digits = 3 if row["unit"] == "s" else 2
    spread = f" ± {_sd(samples):.{digits}f}" if len(samples) > 1 else ""
    return f"{statistics.mean(samples):.{digits}f}{spread} {row['unit']}"


def _by_process(row: dict[str, Any]) -> list[float]:
    return [statistics.geometric_mean(runs) for runs in row["samples"]]


def _sd(samples: list[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0
