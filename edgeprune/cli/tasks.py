"""`edgeprune tasks`."""

import json

import click

_EPILOG = """\b
Examples:
  edgeprune tasks
  edgeprune tasks medqa > mine.yaml     # then: edgeprune build --task mine.yaml
  edgeprune tasks mine.yaml --preprocess > shorten.py   # how its inputs are cut, for your app
"""


@click.command("tasks", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option(
    "--preprocess",
    is_flag=True,
    help="Print a Python file that cuts long inputs as the task does; it needs nothing else.",
)
def command(name: str | None, as_json: bool, preprocess: bool) -> None:
    """List the shipped tasks, or print one as YAML to start your own."""
    from edgeprune.data.task import open_task
    from edgeprune.support.errors import unknown
    from edgeprune.support.resources import shipped

    paths = shipped("tasks")
    if preprocess:
        click.echo(_preprocess(name), nl=False)
        return
    if name:
        if name not in paths:
            raise unknown("task", name, paths)
        click.echo(
            json.dumps(open_task(name).model_dump())
            if as_json
            else paths[name].read_text(encoding="utf-8"),
            nl=as_json,
        )
        return
    tasks = [open_task(known) for known in paths]
    if as_json:
        click.echo(json.dumps([task.model_dump() for task in tasks]))
        return
    for task in tasks:
        places = ", ".join(source.name or source.kind for source in task.sources)
        click.echo(f"{task.name:<20}{task.kind:<17}{task.description}  [{places}]")


def _preprocess(name: str | None) -> str:
    from edgeprune.data.shorten import exported
    from edgeprune.data.task import open_task
    from edgeprune.support.errors import UsageError

    if not name:
        raise UsageError("--preprocess needs a task.", "Name a shipped one or a .yaml file.")
    cut = open_task(name).preprocess
    if not cut:
        raise UsageError(
            f"Task '{name}' does not cut its inputs.",
            "Add to its YAML file, such as: preprocess: {field: context, words: 120}",
        )
    return exported(**cut.how)
