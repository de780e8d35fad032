"""The child's end of `runtime_tests.child`."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from edgeprune.support.errors import EdgepruneError, out_of_memory


def serve(open_runner: Callable[[], Any]) -> None:
    """Answer the parent's requests until it closes the pipe.

    Args:
        open_runner: loads what is to be asked, whose methods are the requests.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the runtime prints must not mix with answers
    try:
        runner = open_runner()
        failure = None
    except Exception as error:
        if not isinstance(error, OSError | ImportError) and not _refusal(error):
            raise  # a bug: the parent says how the child ended
        failure = _refusal(error) or {"error": str(error)}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = failure or {"value": getattr(runner, request["call"])(**request["args"])}
        except Exception as error:
            answer = _refusal(error)
            if not answer:
                raise
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _refusal(error: Exception) -> dict[str, Any]:
    """Describe an error for the parent; empty if it is a bug."""
    if isinstance(error, EdgepruneError):
        return {"error": str(error), "hint": error.hint, "code": error.exit_code}
    of_onnxruntime = type(error).__module__.startswith("onnxruntime")  # no kind of RuntimeError
    if isinstance(error, RuntimeError) or of_onnxruntime or out_of_memory(error):
        return {"error": str(error) or "out of memory"}
    return {}
