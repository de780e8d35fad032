"""`edgeprune plan`, and `edgeprune build --dry-run`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import recipe_options, take_recipe

_EPILOG = """\b
Examples:
  edgeprune plan --task medqa
  edgeprune plan --task medqa --model ./my-model --type q4_0 --json
"""


@click.command("plan", epilog=_EPILOG)
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Build folder [builds/<name>]")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(out: Path | None, as_json: bool, **values: Any) -> None:
    """Say what a build would need and give. Opens headers only; writes nothing."""
    show(take_recipe(values), out, as_json)


def show(recipe: Any, out: Path | None, as_json: bool) -> None:
    """Print a plan."""
    from edgeprune.data.loading import load_data
    from edgeprune.pipeline.estimate import plan
    from edgeprune.pipeline.folders import default_folder
    from edgeprune.report.words import size_text

    folder = out or default_folder(recipe)
    data = load_data(
        recipe.data.task,
        recipe.data.general,
        recipe.measurement.eval_rows,
        recipe.measurement.perplexity_tokens,
    )
    figures = plan(recipe)
    sources = {
        "task": f"{data.task.task.name} from {data.task.split.origin}: "
        f"{len(data.task.split.calibration)} rows to calibrate on, "
        f"{len(data.evaluation)} to measure",
        "general": f"{data.general.task.name} from {data.general.split.origin}: "
        f"{len(data.general.split.calibration)} rows",
    }
    if as_json:
        click.echo(
            json.dumps(
                {"recipe": recipe.model_dump(), "out": str(folder), "plan": asdict(figures)}
                | {"data": sources}
            )
        )
        return
    rows = {
        "model": f"{recipe.model.name}, {figures.parameters:,} weights",
        "pruned": f"{figures.zeros:,} zeros in {figures.prunable:,} weights of the decoder blocks "
        f"({recipe.pruning.method}, {recipe.pruning.fusion.mode}, {recipe.pruning.pattern})",
        **sources,
        "artifact": f"{size_text(figures.artifact_bytes)} of weights as {recipe.artifact.type}, no smaller "
        f"than dense: {recipe.artifact.target.upper()} stores zeros in full",
        "disk": size_text(figures.disk_bytes),
        "memory": f"about {size_text(figures.memory_bytes)}",
        "time": f"about {max(1, round(figures.seconds / 60))} min on this machine",
        "out": str(folder),
    }
    if recipe.training.enabled:
        steps = recipe.training.steps
        length = f"{steps} steps" if steps else recipe.training.budget
        rows["training"] = f"{', '.join(recipe.training.ways)}: {length}"
    for name, text in rows.items():
        click.echo(f"{name:<10}{text}")
