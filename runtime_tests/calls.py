"""Calls of functions in what models write: found, held against the right ones, and timed."""

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeprune.formats.chat import Function, Turn, call_in
from runtime_tests.paired import share

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runtime_tests.child import Child
    from runtime_tests.run import Stage

Call = dict[str, Any]
_AT_ONCE, _TIMED = 16, 8  # replies written side by side; those that are timed, one by one
_MAY_BE_LEFT_OUT = ""


@dataclass(frozen=True)
class Chat:
    """A row for the chat template that the artifact brings with it.

    Attributes:
        turn: what is asked, and the right reply.
        functions: those that may be called, in OpenAI's form.
        calls: right calls, with lists of values that are right; none: no function fits.
    """

    turn: Turn
    functions: list[Function] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """A written answer beside the right call.

    Attributes:
        called: whether there is a call of a known function, with its arguments as an object.
        function: whether it is the right function; where none fits, that there is no call.
        exact: whether its arguments are right as well, with nothing left out or added.
    """

    called: bool
    function: bool
    exact: bool


def judge_call(text: str, right: list[Call], functions: list[dict[str, Any]]) -> Judged:
    """Judge what a model has written.

    Texts are compared without case, punctuation and spaces, numbers by value, as in the Berkeley
    Function Calling Leaderboard's check of syntax trees.

    Args:
        text: the model's answer.
        right: the right call, each argument with the list of its right values; none if no
            function fits.
        functions: those that may be called, in OpenAI's form.
    """
    call = call_in(text)
    names = {one["function"]["name"] for one in functions}
    called = call is not None and call["name"] in names
    if not right or call is None:
        nothing = not right and call is None
        return Judged(called, nothing, nothing)
    same = call["name"] == right[0]["name"]
    return Judged(called, same, same and _same_arguments(call["arguments"], right[0]["arguments"]))


def measure(
    children: "Mapping[str, Child]",
    with_grammars: set[str],
    rows: Sequence[tuple[Chat, dict[str, Any]]],
    written: Mapping[str, Sequence[str]],
    max_tokens: int,
    progress: "Callable[[str, int], AbstractContextManager[Stage]]",
) -> dict[str, dict[str, Any]]:
    """Judge what models have written, let them write again in a grammar, and time single calls.

    Args:
        children: by name.
        with_grammars: those whose runtime has grammars.
        rows: the rows, and what a runner is asked for each.
        written: by name, what was written freely, row by row.
        max_tokens: of a reply.
        progress: begins a progress stage of so many steps.

    Returns:
        By name ``free`` and ``grammar`` (None without), each as of `figures`; the mean of
        ``prompt_tokens``, and the median ``milliseconds`` of a call, prompt and reply.
    """
    chats, asked = [chat for chat, _ in rows], [request for _, request in rows]
    found: dict[str, dict[str, Any]] = {}
    with progress("evaluate in a grammar", len(with_grammars) * len(asked)) as stage:
        for name, child in children.items():
            texts: list[str] = []
            for place in range(0, len(asked) if name in with_grammars else 0, _AT_ONCE):
                some = asked[place : place + _AT_ONCE]
                replies = child.call("reply", items=some, max_tokens=max_tokens, in_grammar=True)
                texts += [reply["text"] for reply in replies]
                stage.advance(len(some))
            found[name] = {
                "free": figures(chats, written[name]),
                "grammar": figures(chats, texts) if texts else None,
            }
    for name, child in children.items():
        seconds, sizes = [], []
        for request in asked[:_TIMED]:
            start = time.perf_counter()
            (reply,) = child.call("reply", items=[request], max_tokens=max_tokens)
            seconds.append(time.perf_counter() - start)
            sizes.append(reply["prompt_tokens"])
        found[name] |= {
            "prompt_tokens": statistics.fmean(sizes),
            "milliseconds": 1000 * statistics.median(seconds),
        }
    return found


def figures(chats: Sequence[Chat], texts: Sequence[str]) -> dict[str, Any]:
    """Compute shares of rows, with intervals.

    Returns:
        ``called``, ``function`` and ``exact`` as in `Judged`, the first of rows that ask for a
        call; ``refused``, of rows where no function fits, those without a call. None of no rows.
    """
    judged = [judge_call(t, c.calls, c.functions) for c, t in zip(chats, texts, strict=True)]
    asks = [bool(chat.calls) for chat in chats]
    called = [one.called for one, ask in zip(judged, asks, strict=True) if ask]
    refused = [one.exact for one, ask in zip(judged, asks, strict=True) if not ask]
    return {
        "called": share(called) if called else None,
        "function": share([one.function for one in judged]),
        "exact": share([one.exact for one in judged]),
        "refused": share(refused) if refused else None,
    }


def _same_arguments(given: dict[str, Any], right: dict[str, Any]) -> bool:
    """Compare arguments by name; one that may be left out need not be there."""
    if not given.keys() <= right.keys():
        return False
    return all(
        any(_same(given[name], value) for value in _values(values))
        if name in given
        else _MAY_BE_LEFT_OUT in _values(values)
        for name, values in right.items()
    )


def _values(right: Any) -> list[Any]:
    return right if isinstance(right, list) and right else [right]


def _same(given: Any, right: Any) -> bool:
    if isinstance(given, dict) and isinstance(right, dict):
        return _same_arguments(given, right)
    if isinstance(given, list) and isinstance(right, list):
        return len(given) == len(right) and all(map(_same, given, right))
    if isinstance(given, str) and isinstance(right, str):
        return _bare(given) == _bare(right)
    if isinstance(given, bool) or isinstance(right, bool):
        return given is right
    return bool(given == right)


def _bare(text: str) -> str:
    return re.sub(r"[ ,./\-_*^']", "", text).casefold()
