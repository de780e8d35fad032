"""`edgeprune plan`, and `edgeprune build --dry-run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import recipe_options, take_recipe

if TYPE_CHECKING:
    from edgeprune.data.loading import Data
    from edgeprune.pipeline.estimate import Estimate

_EPILOG = """\b
Examples:
  edgeprune plan --task medqa
  edgeprune plan --task medqa --model ./my-model --type q4_0 --json
"""


@click.command("plan", epilog=_EPILOG)
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Build folder. [builds/<name>]")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(out: Path | None, as_json: bool, **values: Any) -> None:
    """Show the plan of every tensor, and what a build would need and produce.

    This reads headers only and writes nothing. If the allocation measures the model, zeros are
    shown as uniform. --json has a row for every tensor.
    """
    show(take_recipe(values), out, as_json)


def show(recipe: Any, out: Path | None, as_json: bool) -> None:
    """Print a plan."""
    from edgeprune.pipeline.estimate import plan
    from edgeprune.pipeline.folders import default_folder
    from edgeprune.pipeline.job import rows_for
    from edgeprune.pipeline.record import plan_rows
    from edgeprune.support.files import json_text

    folder = out or default_folder(recipe)
    data, figures = rows_for(recipe), plan(recipe)
    sources = _sources(data)
    if as_json:
        numbers = {k: v for k, v in vars(figures).items() if k != "plan"}
        numbers["tensors"] = [row.to_json() for row in plan_rows(figures.plan)]
        values = {"recipe": recipe.model_dump(), "out": str(folder), "plan": numbers}
        click.echo(json_text(values | {"data": sources}))
        return
    _print_table(figures)
    for name, text in _lines(recipe, figures, sources, folder).items():
        click.echo(f"{name:<10}{text}")


def _sources(data: "Data") -> dict[str, str]:
    task, general = data.task, data.general
    return {
        "task": (
            f"{task.task.name} from {task.split.origin}: {len(task.split.calibration)} rows for "
            f"calibration, {len(data.evaluation)} for evaluation"
        ),
        "general": f"{general.task.name} from {general.split.origin}: "
        f"{len(general.split.calibration)} rows",
    }


def _print_table(figures: "Estimate") -> None:
    from rich.console import Console
    from rich.table import Table

    from edgeprune.pipeline.record import plan_rows
    from edgeprune.report.tensors import HEADINGS, by_kind, cells

    table = Table(*HEADINGS, box=None, pad_edge=False)
    for rows in by_kind(plan_rows(figures.plan)):
        table.add_row(*cells(rows))
    Console(soft_wrap=True, highlight=False).print(table)
    click.echo()


def _lines(
    recipe: Any, figures: "Estimate", sources: dict[str, str], folder: Path
) -> dict[str, str]:
    import exporters
    from edgeprune.report.words import size_text

    asked = recipe.pruning
    zeros_cost = exporters.get(recipe.artifact.target).zeros_cost
    lines = {
        "model": f"{recipe.model.name}, {figures.parameters:,} weights",
        "pruned": f"{figures.zeros:,} zeros in {figures.prunable:,} weights of the decoder blocks "
        f"({asked.method}, {asked.fusion.mode}, {asked.pattern})",
        **sources,
        "artifact": f"{size_text(figures.artifact_bytes)} of weights as {recipe.artifact.type}: "
        f"{zeros_cost}",
        "disk": size_text(figures.disk_bytes),
        "memory": f"about {size_text(figures.memory_bytes)}",
        "time": f"about {max(1, round(figures.seconds / 60))} min on this machine",
        "out": str(folder),
    }
    if recipe.training.enabled:
        steps = recipe.training.steps
        length = f"{steps} steps" if steps else recipe.training.budget
        lines["training"] = f"{', '.join(recipe.training.ways)}: {length}"
    return lines
