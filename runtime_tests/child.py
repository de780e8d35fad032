"""A runtime in a child process: a crash or a leak in it cannot touch the build.

The child reads one JSON request a line (``{"call": name, "args": {...}}``) and answers with one
JSON line: ``{"value": ...}``; ``{"error": text}`` where the runtime refuses; or, where edgeprune
does, ``{"error": text, "hint": text, "code": number}`` of its `EdgepruneError`. A call that takes
longer than any work should ends the child; ``EDGEPRUNE_RUNTIME_TIMEOUT`` gives other seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Timer
from typing import IO, Any

from edgeprune.support.errors import (
    CheckFailed,
    InputError,
    MachineError,
    UsageError,
)

TIMEOUT_VARIABLE = "EDGEPRUNE_RUNTIME_TIMEOUT"
# Without huge pages, a process decodes up to a tenth slower or faster than the next one by where
# its pages lie (docs/measured/check-rule.md). glibc asks for them; elsewhere it is not read.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# Before a child is taken to hang: the slowest disk loads a model in the first, and the slowest
# machine reads or writes a token in the second. A token has at least a character.
_SECONDS = 1800.0
_SECONDS_A_TOKEN = 0.25
_BY_CODE = {one.exit_code: one for one in (CheckFailed, UsageError, InputError, MachineError)}


class Child:
    """The parent's end. Calls are the public methods of the runner.

    Attributes:
        artifact: path of the loaded artifact.
    """

    def __init__(self, process: "subprocess.Popen[str]", stderr: IO[str], artifact: Path):
        self._process, self._stderr, self.artifact = process, stderr, artifact

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the runner and wait for what it returns.

        Raises:
            MachineError: the runtime rejected the call, crashed, or did not answer in time.
            EdgepruneError: as edgeprune raised it in the child.
        """
        limit, late = patience(arguments), Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = Timer(limit, end)
        timer.daemon = True
        timer.start()
        try:
            line = self._answer(json.dumps({"call": name, "args": arguments}))
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            if late.is_set():
                raise MachineError(
                    f"The runtime did not finish '{name}' of {self.artifact} within {limit:.0f} "
                    "seconds and was stopped.",
                    f"If it is only slow, set {TIMEOUT_VARIABLE} to more seconds.",
                )
            self._stderr.seek(0)
            tail = " ".join(self._stderr.read().split())[-300:]
            raise MachineError(
                f"The runtime exited with code {code} during '{name}' of {self.artifact}: "
                f"{tail or 'it left no message'}",
                "'edgeprune inspect' shows whether the file is damaged; code -9 usually means "
                "out of memory.",
            )
        answer = json.loads(line)
        if "code" in answer:
            raise _BY_CODE[answer["code"]](answer["error"], answer["hint"])
        if "error" in answer:
            raise MachineError(f"The runtime cannot run {self.artifact}: {answer['error']}")
        return answer["value"]

    def _answer(self, request: str) -> str:
        """Read the child's next line; empty if the child has exited."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(request + "\n")
            requests.flush()
            return answers.readline()
        except BrokenPipeError:
            return ""


def patience(arguments: dict[str, Any]) -> float:
    """Compute the seconds after which a call with these arguments counts as hanging.

    Raises:
        UsageError: the environment variable is not a number of seconds.
    """
    if asked := os.environ.get(TIMEOUT_VARIABLE):
        try:
            if (seconds := float(asked)) > 0:
                return min(seconds, TIMEOUT_MAX)
        except ValueError:
            pass
        raise UsageError(f"{TIMEOUT_VARIABLE}={asked}: expected a number of seconds, such as 3600.")
    if "tokens" in arguments:
        tokens = arguments["tokens"] + arguments.get("prompt_tokens", 0)
        return _SECONDS + _SECONDS_A_TOKEN * tokens * arguments.get("batch", 1)
    texts = arguments.get("items") or arguments.get("prompts") or []
    written = len(texts) * arguments.get("max_tokens", 0)
    return _SECONDS + _SECONDS_A_TOKEN * (len(json.dumps(texts)) + written)


def start(
    artifact: Path,
    threads: int,
    device: str = "CPU",
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[Child]:
    """Start a child process with ``artifact`` loaded; it ends with the context.

    Args:
        artifact: what is loaded.
        threads: of the runtime.
        device: ``CPU``, or a GPU of the artifact's runner by its name.
        environment: variables of the child's, beside this process's own.

    Raises:
        MachineError: the runtime rejected the artifact or crashed on it.
    """
    command = [sys.executable, "-m", "runtime_tests", str(artifact), str(threads), device]
    return started(command, artifact, environment)


@contextmanager
def started(
    command: Sequence[str], artifact: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Start a child by a command whose program ends in `runtime_tests.serve.serve`; as `start`."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=_HUGE_PAGES | os.environ | dict(environment or {}),
        )
        child = Child(process, stderr, artifact)
        try:
            child.call("info")  # loading errors surface here
            yield child
        finally:
            process.kill()
            process.wait()
