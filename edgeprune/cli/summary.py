"""What a finished build says on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

import exporters
from edgeprune.manifest import Manifest
from edgeprune.report.caveats import caveats
from edgeprune.report.verdict import headline, verdict
from edgeprune.report.words import made_how, table


def print_summary(manifest: Manifest, folder: Path, console: Console | None = None) -> None:
    """The results beside the dense model, what to make of them, and the next command."""
    console = console or Console(highlight=False, soft_wrap=True)
    recipe, results = manifest.recipe, manifest.results
    console.print(
        f"\n[bold]{manifest.model.name}[/] for [bold]{manifest.data.task.name}[/]: "
        f"{made_how(manifest)}"
    )
    for sentence in headline(manifest):
        console.print(f"[bold]{sentence}[/]")
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("")
    for name in results.artifacts:
        rows.add_column(name)
    for row in table(manifest):
        rows.add_row(*row)
    console.print(rows)
    if results.chance_level is not None:
        console.print(f"chance level {results.chance_level:.3f}; {results.rows} rows")
    if tensors := manifest.artifact.pruned_tensors:
        total = sum(tensor.size for tensor in tensors)
        zeros = sum(tensor.zeros for tensor in tensors)
        console.print(
            f"{zeros:,} of {total:,} weights in {len(tensors)} tensors are zero in the file's "
            f"bytes ({zeros / total:.1%})"
        )
    for sentence in caveats(manifest):
        console.print(f"- {sentence}", markup=False)
    word, sentence = verdict(manifest)
    console.print(f"[bold]{word}[/]: {sentence}")
    console.print(f"report  {folder / 'report.html'}", markup=False)
    verb = exporters.get(recipe.artifact.target).next_verb
    ships = manifest.packed if manifest.choice and manifest.packed else manifest.artifact
    calls = verb == "chat" and results.artifacts[results.own].calls
    with_functions = f" --task {recipe.data.task}" if calls else ""
    console.print(f"next    edgeprune {verb} {folder / ships.file}{with_functions}", markup=False)
