"""`edgeprune report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeprune.manifest import Manifest

_EPILOG = """\b
Examples:
  edgeprune report builds/medqa-smollm2-135m-alps_fast-mix-50pct-q8_0   # its page and card again
  edgeprune report builds/new --history checks.jsonl                    # with all its checks
  edgeprune report --compare builds/old builds/new builds/newest        # history, Pareto plot
  edgeprune report --compare builds --out pareto.html                   # all builds of a folder
"""


@click.command("report", epilog=_EPILOG)
@click.argument("builds", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--compare", is_flag=True, help="One page about all of them.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The page of --compare. [comparison.html]"
)
@click.option(
    "--history", "history_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Also plot the checks in this file, see 'edgeprune check --history'.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="With --compare: print the figures as JSON.")
def command(
    builds: tuple[Path, ...], compare: bool, out: Path | None, history_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a build's page and model card again, or one page that compares builds."""
    from edgeprune import report
    from edgeprune.support.errors import InputError, UsageError
    from edgeprune.support.extras import need
    from edgeprune.support.files import json_text, write_text

    more = ["adjustText"] * compare + ["scipy"] * bool(history_file)
    need("matplotlib", "huggingface_hub", *more)
    from edgeprune.regression import history
    from edgeprune.report import comparison

    if (out or as_json) and not compare:
        raise UsageError("--out and --json need --compare: a build's page is always report.html.")
    if history_file and compare:
        raise UsageError("--history is of one build's page, not of --compare.")
    if history_file and not history_file.exists():
        raise InputError(f"{history_file} is missing.", "'edgeprune check --history' writes it.")
    checks = history.read(history_file) if history_file else []
    out = out or Path("comparison.html")
    manifests = _manifests(builds)
    if not compare:
        for folder, manifest in manifests.items():
            report.write(folder, manifest, checks)
            click.echo(folder / "report.html")
        return
    found = comparison.entries(manifests)
    write_text(out, comparison.render(found))
    if as_json:
        click.echo(json_text(comparison.as_json(found)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*comparison.HEADINGS)
    for entry in found:
        table.add_row(*comparison.cells(entry))
    Console().print(table)
    click.echo(out)


def _manifests(folders: tuple[Path, ...]) -> "dict[Path, Manifest]":
    """Manifests by folder; a folder of builds stands for those in it, the oldest first."""
    from edgeprune.manifest import read

    found: dict[Path, Manifest] = {}
    for folder in folders:
        inside = sorted(folder.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if inside and not (folder / "manifest.json").exists():
            found |= {path.parent: read(path.parent) for path in inside}
        else:
            found[folder] = read(folder)
    return found
