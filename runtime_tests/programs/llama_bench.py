"""llama.cpp's own benchmark: a process for every run."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.support.errors import MachineError
from runtime_tests.child import patience
from runtime_tests.programs.command import Command


class LlamaBench(Command):
    """A command of llama-bench: the program, and the caller's options."""

    @contextmanager
    def start(self, artifact: Path, threads: int) -> Iterator["_Runs"]:
        """See `runtime_tests.programs.Program`."""
        own = ["--model", str(artifact), "--threads", str(threads)]
        about = {"version": self.version(), "file_bytes": artifact.stat().st_size}
        yield _Runs([self.command[0], *own, *self.command[1:]], about)


class _Runs:
    """Runs of one artifact."""

    def __init__(self, command: list[str], about: dict[str, Any]):
        self._command, self._about = command, about

    def call(self, name: str, **arguments: Any) -> Any:
        """See `runtime_tests.programs.Running`."""
        if arguments.pop("batch", 1) != 1:
            raise MachineError("llama-bench is timed with one sequence: leave out --batch.")
        return getattr(self, name)(**arguments)

    def info(self) -> dict[str, Any]:
        return self._about

    def prefill_seconds(self, tokens: int) -> float:
        return self._seconds(tokens, "--n-prompt", str(tokens), "--n-gen", "0")

    def decode_seconds(self, prompt_tokens: int, tokens: int) -> float:
        depth = ("--n-prompt", "0", "--n-gen", str(tokens), "--n-depth", str(prompt_tokens))
        return self._seconds(prompt_tokens + tokens, *depth)

    def first_token_seconds(self, prompt_tokens: int) -> None:
        """It decodes nothing behind a prompt."""

    def peak_memory(self) -> None:
        """It has ended by now."""

    def _seconds(self, tokens: int, *options: str) -> float:
        command = [*self._command, *options, "--repetitions", "1", "--output", "json"]
        limit = patience({"tokens": tokens})
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise MachineError(
                f"{' '.join(command)} did not end within {limit:.0f} seconds."
            ) from None
        try:
            (found,) = json.loads(done.stdout)
            return float(found["samples_ns"][0]) / 1e9
        except (ValueError, KeyError):
            tail = " ".join(done.stderr.split())[-300:] or f"it exited with {done.returncode}"
            raise MachineError(f"{' '.join(command)} left no figures: {tail}") from None
