"""`edgeprune tasks`."""

import json

import click

_EPILOG = """\b
Examples:
  edgeprune tasks
  edgeprune tasks medqa > mine.yaml     # then: edgeprune build --task mine.yaml
"""


@click.command("tasks", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the shipped tasks, or print one as YAML to start your own."""
    from edgeprune.data.task import open_task
    from edgeprune.support.errors import unknown
    from edgeprune.support.resources import shipped

    paths = shipped("tasks")
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
