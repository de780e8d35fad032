"""`edgeprune recipes`."""

from pathlib import Path

import click

_EPILOG = """\b
Examples:
  edgeprune recipes ls
  edgeprune recipes cp medqa-demo mine.yaml
  edgeprune recipes validate mine.yaml
"""


@click.group("recipes", epilog=_EPILOG)
def command() -> None:
    """List, copy and check recipes."""


@command.command("ls")
def list_recipes() -> None:
    """List the shipped recipes."""
    from edgeprune.support.resources import shipped

    for name, path in shipped("recipes").items():
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        click.echo(f"{name:<16}{first}")


@command.command("cp")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), required=False)
def copy(name: str, target: Path | None) -> None:
    """Copy a shipped recipe to a file to edit."""
    from edgeprune.support.errors import UsageError, unknown
    from edgeprune.support.files import write_text
    from edgeprune.support.resources import shipped

    known = shipped("recipes")
    if name not in known:
        raise unknown("recipe", name, known)
    target = target or Path(f"{name}.yaml")
    if target.exists():
        raise UsageError(
            f"{target} already exists; it was not overwritten.", "Choose another name."
        )
    write_text(target, known[name].read_text(encoding="utf-8"))
    click.echo(f"{target}: edit it, then run: edgeprune build --recipe {target}")


@command.command("validate")
@click.argument("files", nargs=-1, required=True)
def validate(files: tuple[str, ...]) -> None:
    """Check recipe files, and list all mistakes at once."""
    from edgeprune.recipe.load import load

    for file in files:
        load(file)
        click.echo(f"{file}: valid")
