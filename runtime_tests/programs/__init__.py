"""Runtimes that are programs of their own: servers of any kind, and llama-bench.

They are timed as the package's own runtimes are, from outside: a server as its users see it, over
HTTP, with one request at a time.
"""

import shlex
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from edgeprune.support.errors import UsageError
from runtime_tests.programs.llama_bench import LlamaBench
from runtime_tests.programs.server import Address, Server


class Running(Protocol):
    """A program that runs, or a server; calls are what `runtime_tests.runners.base` times."""

    def call(self, name: str, **arguments: Any) -> Any:
        """Call ``info``, ``prefill_seconds``, ``decode_seconds`` or ``peak_memory``."""


class Program(Protocol):
    """A program that runs artifacts."""

    @property
    def said(self) -> str:
        """The command or the address, as it was given."""

    @property
    def name(self) -> str:
        """Short, for tables."""

    @property
    def loads(self) -> bool:
        """Whether it loads the artifact, or has loaded something by itself."""

    def version(self) -> str:
        """What it says of its version, with its name."""

    def start(self, artifact: Path, threads: int) -> AbstractContextManager[Running]:
        """Start it with an artifact; it ends with the context.

        Raises:
            MachineError: it cannot run here, or refuses the artifact.
        """


def program(said: str) -> Program:
    """Find out what a command or an address starts.

    Args:
        said: ``llama-server`` or ``llama-bench`` with options of theirs, by any path; a command of
            another OpenAI-style server with ``{model}`` and ``{port}`` in it, and ``{threads}``;
            or the address of one that runs already, ``http://…``.

    Raises:
        UsageError: it is none of these, or there is no such program.
    """
    if said.startswith(("http://", "https://")):
        return Address(said)
    command = tuple(shlex.split(said))
    if not command or not shutil.which(command[0]):
        raise UsageError(
            f"There is no program {command[0] if command else said!r} to be run.",
            "Give its path, or install it.",
        )
    name = " ".join([Path(command[0]).name, *command[1:]])
    if "{model}" in said and "{port}" in said:
        return Server(said, name, command)
    kind = Path(command[0]).stem
    if kind == "llama-server":
        own = ("--model", "{model}", "--port", "{port}", "--threads", "{threads}")
        return Server(said, name, (command[0], *own, *command[1:]))
    if kind == "llama-bench":
        return LlamaBench(said, name, command)
    raise UsageError(
        f"{said}: how is it to be started?",
        "Expected llama-server or llama-bench, or a command of an OpenAI-style server with "
        "{model} and {port} where they belong.",
    )
