"""A runtime in a child process: a crash or a leak in it cannot touch the build.

The child reads one JSON request a line (``{"call": name, "args": {...}}``) and answers with one
JSON line (``{"value": ...}`` or ``{"error": text}``).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from edgeprune.errors import MachineError
from runtime_tests.gpus import kind

# What runs which kind of artifact: module and class; a folder is transformers'.
_RUNNERS = {
    ".gguf": ("runtime_tests.llamacpp", "LlamaCpp"),
    ".onnx": ("runtime_tests.ort", "OnnxRuntime"),
    "/": ("runtime_tests.hf", "Transformers"),
}


class Child:
    """The parent's end. Calls are the public methods of the runner.

    Attributes:
        artifact: what it has loaded.
    """

    def __init__(self, process: "subprocess.Popen[str]", stderr: IO[str], artifact: Path):
        self._process, self._stderr, self.artifact = process, stderr, artifact

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the runner and wait for what it returns.

        Raises:
            MachineError: the runtime refused or crashed.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(json.dumps({"call": name, "args": arguments}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            tail = " ".join(self._stderr.read().split())[-300:]
            raise MachineError(
                f"The runtime stopped with code {code} while it handled '{name}' of "
                f"{self.artifact}: {tail or 'it left no message'}",
                "edgeprune inspect shows whether the file is whole; out of memory is the usual "
                "cause of code -9.",
            )
        answer = json.loads(line)
        if "error" in answer:
            raise MachineError(f"The runtime can't handle {self.artifact}: {answer['error']}")
        return answer["value"]


@contextmanager
def start(artifact: Path, threads: int, provider: str = "CPU") -> Iterator[Child]:
    """Start a child process with ``artifact`` loaded; it ends with the context.

    ``provider`` is ``CPU``, or one of `runtime_tests.gpus` by its name.

    Raises:
        MachineError: the runtime refused the artifact or crashed on it.
    """
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime_tests.child", str(artifact), str(threads), provider],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        child = Child(process, stderr, artifact)
        try:
            child.call("info")  # loading errors surface here
            yield child
        finally:
            process.kill()
            process.wait()


def _serve(artifact: Path, threads: int, provider: str) -> None:
    """The child's end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the runtime prints must not mix with answers
    try:
        module, name = _RUNNERS[kind(artifact)]
        device = {} if provider == "CPU" else {"provider": provider}
        runner = getattr(import_module(module), name)(artifact, threads, **device)
        failure = None
    except (RuntimeError, OSError, ImportError) as error:
        failure = str(error)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if failure:
                raise RuntimeError(failure)
            answer = {"value": getattr(runner, request["call"])(**request["args"])}
        except RuntimeError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
