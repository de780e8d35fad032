"""`edgeprune inspect`."""

from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
Examples:
  edgeprune inspect model.gguf
  edgeprune inspect model.onnx
  edgeprune inspect model.gguf --json | jq '.tensors[] | select(.sparsity > 0.4).name'
"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(artifact: Path, as_json: bool) -> None:
    """Show an artifact's metadata, and count the zeros of every tensor in its bytes."""
    from edgeprune.formats.inspection import inspect
    from edgeprune.support.files import json_text

    found = inspect(artifact)
    if as_json:
        click.echo(json_text(found))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for key, value in found["metadata"].items():
        console.print(f"{key:<32} {_plain(value)}", markup=False, soft_wrap=True)
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (("tensor", "left"), ("type", "left"), ("shape", "right"),
                        ("zeros", "right"), ("declared", "right")):  # fmt: skip
        rows.add_column(title, justify=side)  # type: ignore[arg-type]
    for tensor in found["tensors"]:
        declared = tensor["declared_nonzeros"]
        rows.add_row(
            escape(_plain(tensor["name"])),
            tensor["type"],
            "x".join(map(str, tensor["shape"])),
            f"{tensor['sparsity']:.2%}",
            ""
            if declared is None
            else "matches"
            if declared == tensor["nonzeros"]
            else f"DIFFERS: metadata declares {declared} non-zeros",
        )
    console.print(rows)
    if not found["sparse"]:
        console.print("No sparsity metadata: this file was not pruned by edgeprune.")


def _plain(value: Any) -> str:
    """Format a value on one line, without control characters, which a hostile file may contain."""
    return "".join(c if c.isprintable() else " " for c in str(value)[:100])
