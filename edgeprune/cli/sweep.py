"""`edgeprune sweep`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from edgeprune.experiments.sweep import Group, Outcome

_EPILOG = """\b
Examples:
  edgeprune sweep configs/recipes/*.yaml
  edgeprune sweep q8.yaml q4.yaml 2of4.yaml --set data.task=arc_easy --out builds/arc
  edgeprune sweep medqa-demo medqa-2of4 --dry-run        # shipped recipes by name
  edgeprune sweep recipes/*.yaml --ray 10.0.0.1:6379     # needs edgeprune[ray] on every machine,
                                                         # and a folder shared by all of them

\b
Builds that differ only in type or target share one pruning. Run the same command again to
resume. The folder gets pareto.html, which compares the builds.
Exit code: 0, or the highest exit code of the builds.
"""


@click.command("sweep", epilog=_EPILOG)
@click.argument("recipes", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("builds/sweep"), show_default=True,
    help="Folder for the builds, one folder each.",
)  # fmt: skip
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Setting for every recipe, such as measurement.eval_rows=500. May be repeated.",
)  # fmt: skip
@click.option(
    "--ray", "cluster", metavar="ADDRESS", help="Address of a Ray cluster; 'local' starts one."
)
@click.option("--replace", is_flag=True, help="Overwrite builds of other recipes in these folders.")
@click.option(
    "--dry-run", is_flag=True, help="List the builds and the pruning they share, and stop."
)
@click.option("--json", "as_json", is_flag=True, help="Print each build's outcome as JSON.")
def command(
    recipes: tuple[str, ...], out: Path, settings: tuple[str, ...], cluster: str | None,
    replace: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build many recipes and compare them."""
    from edgeprune.support.extras import need

    need("torch", "transformers", "matplotlib", "adjustText", "huggingface_hub")
    from edgeprune.experiments import sweep
    from edgeprune.support.progress import Bars

    planned = sweep.groups(_recipes(recipes, settings), Bars())
    if dry_run:
        _list(planned, out)
        return
    outcomes = sweep.sweep(planned, out, Bars(), cluster, replace)
    finish(outcomes, out, as_json)


def finish(outcomes: "list[Outcome]", out: Path, as_json: bool) -> NoReturn:
    """Compare the builds, say what became of each, and exit with the highest code."""
    from edgeprune.experiments import sweep
    from edgeprune.support.files import json_text

    page = _compare(outcomes, out)
    if as_json:
        click.echo(json_text(sweep.as_json(outcomes)))
    else:
        for outcome in outcomes:
            said = f": {outcome.message}" if outcome.message else ""
            click.echo(f"{outcome.state:<7} {outcome.folder}{said}")
        click.echo(page or "There are no builds to compare.")
    sys.exit(max(outcome.exit_code for outcome in outcomes))


def _recipes(files: tuple[str, ...], settings: tuple[str, ...]) -> dict[str, Any]:
    from edgeprune.recipe.load import resolve
    from edgeprune.support.errors import UsageError

    found: dict[str, Any] = {}
    for file in files:
        name = Path(file).stem
        if name in found:
            raise UsageError(f"Two recipes are named '{name}'.", "Rename one of the files.")
        try:
            found[name] = resolve(file, settings, {})
        except UsageError as error:
            raise UsageError(f"{file}: {error}", error.hint) from None
    return found


def _list(planned: "list[Group]", out: Path) -> None:
    for group in planned:
        first: str | None = None
        for name, recipe in group.recipes.items():
            shared = f", shares the pruning of {first}" if first and recipe.pruning.sparsity else ""
            click.echo(f"{out / name}: {recipe.data.task}, {recipe.artifact.type}{shared}")
            first = first or name


def _compare(outcomes: "list[Outcome]", out: Path) -> Path | None:
    from edgeprune.manifest import read
    from edgeprune.report import comparison
    from edgeprune.support.files import write_text

    whole = [outcome.folder for outcome in outcomes if outcome.state != "error"]
    if not whole:
        return None
    found = comparison.entries({folder: read(folder) for folder in whole})
    write_text(out / "pareto.html", comparison.render(found))
    return out / "pareto.html"
