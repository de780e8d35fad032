"""`edgeprune front`."""

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import recipe_options, take_recipe

_EPILOG = """\b
Examples:
  edgeprune front --task arc_easy
  edgeprune front --task medqa --sizes 52MB,60MB,70MB --time 6m
  edgeprune front --task arc_easy --runtime stock --dry-run

\b
Every build is trained alike and measured; what storages lose is measured once. Run the same
command again to resume. The folder gets pareto.html, with dense types beside the chosen builds.
"""


@click.command("front", epilog=_EPILOG)
@recipe_options
@click.option("--sizes", help="Sizes, comma-separated. [evenly, from the smallest on]")
@click.option("--count", default=5, show_default=True, help="Number of sizes, if none are given.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [builds/front-<task>]")
@click.option("--dry-run", is_flag=True, help="List the builds and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print each build's outcome as JSON.")
def command(
    sizes: str | None, count: int, out: Path | None, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Build the best file for each of several sizes, and dense files beside them."""
    from edgeprune.cli.sweep import finish
    from edgeprune.experiments import front, sweep
    from edgeprune.pipeline.folders import short_name
    from edgeprune.support.progress import Bars

    recipe = take_recipe(values)
    asked = tuple(part.strip() for part in sizes.split(",")) if sizes else ()
    recipes = front.recipes(recipe, asked, count, Bars())
    folder = out or Path("builds") / f"front-{short_name(recipe.data.task)}"
    if dry_run:
        for name in recipes:
            click.echo(str(folder / name))
        return
    outcomes = sweep.sweep(sweep.groups(recipes, Bars()), folder, Bars())
    finish(outcomes, folder, as_json)
