"""`edgeprune plan`, and `edgeprune build --dry-run`."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import recipe_options, take_recipe
from edgeprune.support.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.data.loading import Data
    from edgeprune.manifest.manifest import ChoiceFacts
    from edgeprune.pipeline.estimate import Estimate

_BARS = 40  # characters of the longest
_EPILOG = """\b
Examples:
  edgeprune plan --task medqa
  edgeprune plan --task medqa --size 60MB
  edgeprune plan --task medqa --model ./my-model --type q4_0 --json
  edgeprune plan --task medqa --decode 1 --save-costs laptop.json   # there, for builds here
"""


@click.command("plan", epilog=_EPILOG)
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Build folder. [builds/<name>]")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option(
    "--save-costs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --decode: write what was timed, for `build --costs` on another machine.",
)
def command(out: Path | None, as_json: bool, save_costs: Path | None, **values: Any) -> None:
    """Show the plan of every tensor, and what a build would need and produce.

    Where storages are chosen, the model is measured once, for all sizes, and the front of sizes
    and losses is shown. Otherwise this reads headers only and writes nothing. If the allocation
    measures the model, zeros are shown as uniform. --json has a row for every tensor.
    """
    from edgeprune.recipe.goal import decided

    show(decided(take_recipe(values)), out, as_json, save_costs)


def show(recipe: Any, out: Path | None, as_json: bool, save_costs: Path | None = None) -> None:
    """Print a plan."""
    from edgeprune.pipeline.estimate import plan
    from edgeprune.pipeline.folders import default_folder
    from edgeprune.pipeline.job import rows_for
    from edgeprune.pipeline.record import plan_rows
    from edgeprune.support.files import json_text

    folder = out or default_folder(recipe)
    data = rows_for(recipe)
    recipe, choice = _choose(recipe, data, save_costs)
    figures, sources = plan(recipe), _sources(data)
    if as_json:
        numbers = {k: v for k, v in vars(figures).items() if k != "plan"}
        numbers["tensors"] = [row.to_json() for row in plan_rows(figures.plan)]
        values = {"recipe": recipe.model_dump(), "out": str(folder), "plan": numbers}
        values |= {"choice": choice.to_json()} if choice else {}
        click.echo(json_text(values | {"data": sources}))
        return
    _print_table(figures)
    if choice:
        _print_front(choice)
    for name, text in _lines(recipe, figures, sources, folder).items():
        click.echo(f"{name:<10}{text}")


def _choose(recipe: Any, data: "Data", save_costs: Path | None) -> "tuple[Any, ChoiceFacts | None]":
    """Choose storages as a build would; what is measured for it is kept for the build."""
    if save_costs and (recipe.goal.costs or not recipe.goal.decode):
        raise UsageError(
            "--save-costs writes what was timed here, and nothing is timed without --decode, or "
            "with the --costs of another device.",
            "Ask for a speed on this machine, however low: --decode 1",
        )
    if not recipe.goal.choose:
        return recipe, None
    from edgeprune.pipeline import choose, costs
    from edgeprune.pipeline.job import open_job
    from edgeprune.pipeline.workspace import Workspace
    from edgeprune.support.progress import Bars

    with TemporaryDirectory() as folder:
        job = open_job(recipe, Workspace(Path(folder), Bars()), data)
        settled, choice = choose.settle(job)
        if save_costs:
            costs.save(job, choose.measured(job)[0], save_costs)
    return settled.recipe, choice


def _print_front(choice: "ChoiceFacts") -> None:
    """Print what other choices would lose, as bars on a logarithmic scale."""
    from rich.console import Console
    from rich.table import Table

    from edgeprune.report.words import size_text

    first = "decode, tokens/s" if choice.decode else "size"
    table = Table(first, "nats / token, before training", "", box=None, pad_edge=False)
    own = (1 / choice.decode if choice.decode else choice.bytes, choice.loss)
    points = sorted({*choice.front, own})
    least, most = (pick(loss for _, loss in points) for pick in (min, max))
    for cost, loss in points:
        share = math.log(loss / least) / max(1e-9, math.log(most / least))
        mark = "  < chosen" if (cost, loss) == own else ""
        name = f"{1 / cost:.0f}" if choice.decode else size_text(cost)
        table.add_row(name, f"{loss:.3f}", "▇" * (1 + round(_BARS * share)) + mark)
    Console(soft_wrap=True, highlight=False).print(table)
    click.echo()


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
        ways, tokens = list(recipe.training.ways), recipe.training.virtual_tokens
        named = [*ways, *([f"{tokens} virtual tokens"] if tokens else [])]
        lines["training"] = f"{', '.join(named)}: {length}"
    return lines
