"""What a finished build says on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeprune.report.words import caveats, table, verdict


def print_summary(manifest: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """The results beside the dense model, what to make of them, and the next command."""
    console = console or Console(highlight=False, soft_wrap=True)
    recipe, results = manifest["recipe"], manifest["results"]
    console.print(
        f"\n[bold]{manifest['model']['name']}[/] for [bold]{manifest['data']['task']['name']}[/]: "
        f"{recipe['method']}, {recipe['fusion']}, {recipe['pattern']}, "
        f"sparsity {recipe['sparsity']:g}, {recipe['type']}"
    )
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("")
    for name in results["artifacts"]:
        rows.add_column(name)
    for row in table(manifest):
        rows.add_row(*row)
    console.print(rows)
    if results["guessing_line"] is not None:
        console.print(f"guessing line {results['guessing_line']:.3f}; {results['rows']} rows")
    tensors = [tensor for tensor in manifest["artifact"]["tensors"] if tensor["pruned"]]
    if tensors:
        total = sum(tensor["shape"][0] * tensor["shape"][1] for tensor in tensors)
        zeros = total - sum(tensor["nonzeros"] for tensor in tensors)
        console.print(
            f"{zeros:,} of {total:,} weights in {len(tensors)} tensors are zero in the file's "
            f"bytes ({zeros / total:.1%})"
        )
    for sentence in caveats(manifest):
        console.print(f"- {sentence}", markup=False)
    word, sentence = verdict(manifest)
    console.print(f"[bold]{word}[/]: {sentence}")
    console.print(f"report  {folder / 'report.html'}", markup=False)
    verb = "chat" if recipe["target"] == "gguf" else "inspect"
    console.print(f"next    edgeprune {verb} {folder / manifest['artifact']['file']}", markup=False)
