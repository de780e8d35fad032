"""`edgeprune ablate`."""

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import recipe_options, take_recipe

_EPILOG = """\b
Examples:
  edgeprune ablate --task arc_easy
  edgeprune ablate --task medqa --methods wanda,alps --sparsities 0.4,0.5,2:4 --seeds 3
  edgeprune ablate --task mine.jsonl --fusions mix --methods alps --sparsities 0.3,0.5,0.7

\b
Every row is pruned, exported and scored in the real runtime. Run the same command again to
resume; finished trials are reused. The folder gets ablation.json, .md and .svg.
"""


@click.command("ablate", epilog=_EPILOG)
@recipe_options
@click.option(
    "--methods", default="wanda,alps", show_default=True, help="Methods, comma-separated."
)
@click.option(
    "--fusions",
    default="general,task,mix,fused",
    show_default=True,
    help="Fusion modes, comma-separated.",
)
@click.option(
    "--sparsities",
    default="0.5",
    show_default=True,
    help="Sparsities and N:M patterns, comma-separated.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True,
    help="Calibration seeds per row; spreads need at least 3.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the ablation. [ablations/<task>-<model>]",
)
@click.option("--dry-run", is_flag=True, help="List the rows and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def command(
    methods: str,
    fusions: str,
    sparsities: str,
    seeds: int,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Compare methods, fusions and sparsities on one task."""
    from edgeprune.experiments import ablation

    recipe = take_recipe(values)
    split = [[part.strip() for part in text.split(",")] for text in (methods, fusions, sparsities)]
    rows = list(ablation.variants(*split))
    for row in rows:
        row.recipe(recipe, 0)  # every mistake is said before any work
    if dry_run:
        for row in rows:
            click.echo(f"{row.method:12} {row.fusion or '-':8} {row.amount}")
        click.echo(f"{len(rows)} rows and the dense model; seeds per row: {seeds}")
        return
    from edgeprune.pipeline.folders import short_name
    from edgeprune.report.plots import ablation_curves
    from edgeprune.support.files import json_text, write_text
    from edgeprune.support.progress import Bars

    folder = (
        out or Path("ablations") / f"{short_name(recipe.data.task)}-{short_name(recipe.model.name)}"
    )
    records = ablation.ablate(recipe, rows, list(range(seeds)), folder, Bars())
    write_text(folder / "ablation.md", ablation.markdown(records))
    write_text(folder / "ablation.svg", ablation_curves(records))
    if as_json:
        click.echo(json_text(records))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *ablation.HEADINGS,
        title=f"{recipe.data.task}, {recipe.model.name}, {recipe.artifact.type}",
    )
    for record in records:
        table.add_row(*ablation.cells(record))
    Console().print(table)
    click.echo(f"{folder / 'ablation.svg'}")
