"""What a task brings to `edgeprune chat` and `edgeprune serve`: an app's functions, and more."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgeprune.support.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.runtime.llamacpp.calls import App


def app_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `app_of` reads."""
    task = click.option(
        "--task",
        help="Task whose functions the model may call, such as app_actions, or whose system "
        "message and cutting of long inputs count.",
    )
    grammar = click.option(
        "--grammar", is_flag=True, help="Hold replies to calls of these functions; needs --task."
    )
    return task(grammar(command))


def app_of(task: str | None, grammar: bool) -> "App | None":
    """Read what a task brings: functions of all its calibration rows, system message, cutting.

    Raises:
        UsageError: the task brings nothing, or there is a grammar and no functions.
    """
    from edgeprune.data.shorten import shorten_message
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
    if found.kind == "tool_call":
        functions = joined(row.fields["tools"] for row in load_split(found).calibration)
        return App(functions, found.tools == "listed", found.system, grammar)
    if grammar:
        raise UsageError(
            f"--grammar needs functions, and task {task} is of kind {found.kind}.",
            "Leave --grammar out, or name a task of kind tool_call.",
        )
    cut = partial(shorten_message, **found.preprocess.how) if found.preprocess else None
    if not (cut or found.system):
        raise UsageError(
            f"Task {task} brings nothing to a chat: it has no functions, no system message and no "
            "preprocess.",
            "Leave --task out; 'edgeprune tasks' lists the kinds of shipped tasks.",
        )
    return App(system=found.system, cut=cut)
