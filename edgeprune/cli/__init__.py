"""The command line: one file per command, imported when it is called."""

import importlib
import os
import sys
import tempfile
import traceback
from typing import Any

import click

from edgeprune.support.errors import EXIT_BUG, EXIT_INTERRUPTED, known

# Set, and not 0: every error comes with its traceback.
_DEBUG = "EDGEPRUNE_DEBUG"

_HELP = ["-h", "--help"]
# verb -> module; the short help stands here so that `--help` imports nothing.
_VERBS = {
    "build": ("edgeprune.cli.build", "Compress a model for a task, export it and measure it."),
    "plan": ("edgeprune.cli.plan", "Show what a build would need and produce, without building."),
    "front": ("edgeprune.cli.front", "Build the best file for each of several sizes."),
    "ablate": ("edgeprune.cli.ablate", "Compare methods, fusions and sparsities on one task."),
    "eval": ("edgeprune.cli.eval", "Score an artifact on a task and on general text."),
    "bench": ("edgeprune.cli.bench", "Time artifacts in interleaved rounds."),
    "check": ("edgeprune.cli.check", "Check a build for regressions: exit code 0, 1 or 5."),
    "baseline": ("edgeprune.cli.baseline", "Save a build's measurements as a baseline for check."),
    "sweep": ("edgeprune.cli.sweep", "Build many recipes and compare them."),
    "report": ("edgeprune.cli.report", "Write a build's report page again, or compare builds."),
    "inspect": ("edgeprune.cli.inspect", "Show an artifact's metadata and count its zeros."),
    "pack": ("edgeprune.cli.pack", "Store a pruned file without its zeros; it still runs."),
    "unpack": ("edgeprune.cli.pack", "Restore the original of a packed file."),
    "chat": ("edgeprune.cli.chat", "Chat with a model on the terminal."),
    "serve": ("edgeprune.cli.serve", "Serve a model over an OpenAI-compatible API."),
    "runtime": ("edgeprune.cli.runtime", "Show whether sparse kernels are available here."),
    "tasks": ("edgeprune.cli.tasks", "List tasks, or show one."),
    "recipes": ("edgeprune.cli.recipes", "List, copy and check recipes."),
}

_EPILOG = """\b
Examples:
  edgeprune build --task medqa --target gguf
  edgeprune build --task questions.jsonl --model ./my-model --sparsity 0.4
  edgeprune plan --task medqa --pattern 2:4
  edgeprune inspect builds/*/model.gguf
"""


class _Group(click.Group):
    """Loads a command's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(_VERBS[cmd_name][0])
        command = getattr(module, cmd_name, None) or module.command
        for one in (command, *getattr(command, "commands", {}).values()):
            one.context_settings.setdefault("help_option_names", _HELP)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in _VERBS:
            from edgeprune.support.errors import unknown

            raise click.UsageError(str(unknown("command", args[0], _VERBS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])


def _set_debug(_context: click.Context, _option: click.Parameter, debug: bool) -> None:
    if debug:
        os.environ[_DEBUG] = "1"  # processes that are started from here inherit it


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": _HELP})
@click.version_option(package_name="edgeprune")
@click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug,
    help=f"Show the traceback of every error; {_DEBUG}=1 does the same.",
)  # fmt: skip
def cli() -> None:
    """Compile a language model and a task into a sparse on-device assistant."""


def main() -> None:
    """Run the command line; every failure is one message and a distinct exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (Exception, KeyboardInterrupt) as error:
        if _debugging():
            traceback.print_exception(error)
        sys.exit(_say(error))


def _say(error: BaseException) -> int:
    """Report an error to the user, and return its exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("Interrupted. Run the same command again to resume.", err=True)
        return EXIT_INTERRUPTED
    told = known(error)
    if told is None:
        said = " ".join(str(error).split())
        click.echo(
            f"This is a bug in edgeprune: {type(error).__name__}: {said} ({_traceback(error)})",
            err=True,
        )
        return EXIT_BUG
    click.echo(f"Error: {told}", err=True)
    if told.hint:
        click.echo(f"  {told.hint}", err=True)
    return told.exit_code


def _traceback(error: BaseException) -> str:
    """Save a bug's traceback, and say where to find it."""
    if _debugging():
        return "traceback above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edgeprune-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "run again with edgeprune --debug to see the traceback"
    return f"traceback in {file.name}, or with edgeprune --debug"


def _debugging() -> bool:
    return os.environ.get(_DEBUG, "0") not in ("", "0")
