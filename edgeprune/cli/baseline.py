"""`edgeprune baseline`."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from edgeprune.cli.programs import ProgramType

if TYPE_CHECKING:
    from edgeprune.regression.measurement import Timed
    from runtime_tests.programs import Program

_EPILOG = """\b
Examples:
  edgeprune baseline save builds/medqa-smollm2-135m-alps_fast-mix-50pct-q8_0 --name main
  edgeprune baseline save builds/new --name main --program llama-server
  edgeprune baseline list
  edgeprune check builds/new --baseline main
"""

folder_option = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("baselines"), show_default=True,
    help="Where baselines are kept.",
)  # fmt: skip


@click.group("baseline", epilog=_EPILOG)
def command() -> None:
    """Keep measurements of builds, for `edgeprune check` to compare with."""


@command.command("save")
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--name", help="[the build's folder]")
@click.option(
    "--program", type=ProgramType(),
    help="Also run the artifact in llama-server, in llama-bench, in another OpenAI-style server "
    "whose command has {model} and {port} in it, or ask a server that runs.",
)  # fmt: skip
@folder_option
def save(build: Path, name: str | None, program: "Program | None", folder: Path) -> None:
    """Time a build beside its dense baseline, and keep that with its answers."""
    from edgeprune.regression import baselines
    from edgeprune.regression.measure import measure
    from edgeprune.support.progress import Bars

    path = baselines.place(name or build.resolve().name, folder)
    known = path.exists()
    found = measure(build, Bars(), program=program)
    baselines.save(found, path)
    click.echo(f"{path}: {'measured anew' if known else 'measured'} in {found.seconds:.0f} s")


@command.command("list")
@folder_option
def listing(folder: Path) -> None:
    """Name the baselines."""
    from edgeprune.regression import baselines

    for name in baselines.names(folder):
        click.echo(name)


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print all of it.")
@folder_option
def show(name: str, as_json: bool, folder: Path) -> None:
    """Show what a baseline holds."""
    from edgeprune.regression import baselines
    from edgeprune.support.files import json_text

    found = baselines.load(name, folder)
    if as_json:
        click.echo(json_text(found.to_json()))
        return
    where = found.environment
    click.echo(f"{found.build} for {found.task}, {found.threads} threads")
    click.echo(f"{where.processor}, {where.cores} cores, fingerprint {found.machine}")
    for artifact, one in found.artifacts.items():
        click.echo(f"{artifact:<7} {_speeds(one)}, {one.file_bytes / 1e6:.1f} MB")
    if found.program:
        click.echo(f"{found.program.name} ({found.program.version}): {_speeds(found.program)}")


def _speeds(one: "Timed") -> str:
    parts = [f"{kind} {median(one.of(kind)):.1f} tokens/s" for kind in ("prefill", "decode")]
    return ", ".join(parts)
