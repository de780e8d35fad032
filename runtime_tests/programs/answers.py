"""A task's answers from a server, over HTTP: what the model writes, but no likelihoods."""

import statistics
import time
from typing import TYPE_CHECKING, Any

from edgeprune.formats.chat import Message, plain_call
from edgeprune.support.errors import MachineError, UsageError
from runtime_tests import accuracy, calls
from runtime_tests.accuracy import Item
from runtime_tests.programs.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from runtime_tests.run import Plan, Stage


def quality(
    address: str, plan: "Plan", progress: "Callable[[str, int], AbstractContextManager[Stage]]"
) -> dict[str, Any]:
    """Score what a server writes on a task whose answers are written.

    Args:
        address: of an OpenAI-style server, with or without ``/v1``; its key is in
            ``OPENAI_API_KEY``.
        plan: settings of the measurement.
        progress: begins a progress stage of so many steps.

    Returns:
        ``accuracy``; ``calls`` as of `runtime_tests.calls.measure`, without a grammar, for tasks
        that ask for calls; ``milliseconds``, the median of an answer; ``answers``: ``rows``,
        ``correct`` and ``written`` row by row.

    Raises:
        UsageError: the task's answers are chosen by likelihood, which servers do not tell.
        MachineError: the server does not answer, or refuses a request.
    """
    if plan.metric not in accuracy.WRITTEN:
        raise UsageError(
            f"This task is scored by likelihoods ('{plan.metric}'), which a server does not tell.",
            f"Use a task whose metric is one of {', '.join(accuracy.WRITTEN)}, or score the file "
            "itself: edgeprune eval model.gguf",
        )
    client = Client(address)
    try:
        if not client.is_ready():
            raise MachineError(f"{client.address} does not answer.", "Start the server first.")
        written, seconds = list[str](), list[float]()
        with progress("evaluate", len(plan.items)) as stage:
            for item in plan.items:
                start = time.perf_counter()
                written.append(_written(client, item, plan))
                seconds.append(time.perf_counter() - start)
                stage.advance()
    finally:
        client.close()
    correct = [_correct(*one, plan.metric) for one in zip(plan.items, written, strict=True)]
    found: dict[str, Any] = {
        "accuracy": calls.share(correct),
        "milliseconds": 1000 * statistics.median(seconds),
        "answers": {
            "rows": [item.id for item in plan.items], "correct": correct, "written": written,
        },
    }  # fmt: skip
    if plan.metric == "exact_call":
        chats = [item.chat for item in plan.items if item.chat]
        found["calls"] = {"free": calls.figures(chats, written), "grammar": None}
    return found


def _written(client: Client, item: Item, plan: "Plan") -> str:
    if item.chat is None:
        return client.complete(item.prompt, plan.max_answer_tokens, plan.stop)
    turn = item.chat.turn
    return _text(client.chat(turn.messages, turn.tools, plan.max_answer_tokens, plan.stop))


def _text(message: Message) -> str:
    """Return what a message says; a call as its JSON."""
    if message.get("tool_calls"):
        return plain_call(message)
    return str(message.get("content") or "")


def _correct(item: Item, written: str, metric: str) -> bool:
    scores = [{"logprob": 0.0, "tokens": 1.0}] * len(item.continuations)
    return bool(accuracy.judge(item, scores, metric, written).correct)
