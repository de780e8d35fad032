"""An app's functions for `edgeprune chat` and `edgeprune serve`: those of a task."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgeprune.support.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.runtime.llamacpp.calls import App


def app_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `app_of` reads."""
    task = click.option(
        "--task", help="Task whose functions the model may call, such as app_actions."
    )
    grammar = click.option(
        "--grammar", is_flag=True, help="Hold replies to calls of these functions; needs --task."
    )
    return task(grammar(command))


def app_of(task: str | None, grammar: bool) -> "App | None":
    """Read a task's functions: those of all its calibration rows.

    Raises:
        UsageError: the task does not ask for calls, or there is a grammar and no task.
    """
    from edgeprune.data.sources import load_split
    from edgeprune.data.task import open_task
    from edgeprune.data.tool_calls import joined
    from edgeprune.runtime.llamacpp.calls import App

    if task is None:
        if grammar:
            raise UsageError(
                "--grammar needs functions.", "Name a task that has them: --task app_actions"
            )
        return None
    found = open_task(task)
    if found.kind != "tool_call":
        raise UsageError(
            f"--task {task} is of kind {found.kind}; expected tool_call.",
            "'edgeprune tasks' lists the kinds of shipped tasks.",
        )
    functions = joined(row.fields["tools"] for row in load_split(found).calibration)
    return App(functions, found.tools == "listed", found.system, grammar)
