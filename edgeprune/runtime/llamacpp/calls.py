"""Chats in which a model calls functions, in OpenAI's form, through llama-cpp-python."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from edgeprune.formats.chat import ChatFormat, Function, call_in
from edgeprune.runtime.llamacpp.grammar import call_grammar
from edgeprune.support.extras import load

_DEFAULT = "chat_template.default"  # llama-cpp-python's name of the model's own template


@dataclass(frozen=True)
class App:
    """An app's functions, beside those that a request brings.

    Attributes:
        functions: in OpenAI's form.
        listed: whether prompts list them; otherwise the model has learnt them.
        system: system message of chats without one; empty: the template's.
        in_grammar: whether replies are held to calls of the functions.
        cut: cuts what users say; None: it stays.
    """

    functions: list[Function] = field(default_factory=list)
    listed: bool = True
    system: str = ""
    in_grammar: bool = False
    cut: Callable[[str], str] | None = None


class CallHandler:
    """What llama-cpp-python asks for a reply; plain chats go to the model's own template.

    Args:
        app: the app's functions.
    """

    def __init__(self, app: App):
        self._app = app

    def __call__(self, *, llama: Any, messages: list[Any], stream: bool = False, **how: Any) -> Any:
        """Reply to messages; see ``llama_cpp.Llama.create_chat_completion``."""
        app, given = self._app, how.pop("tools", None) or []
        reply = llama._chat_handlers[_DEFAULT]
        choice = how.pop("tool_choice", None) or "auto"
        messages = self._told(messages)
        if choice == "none" or not (given or app.functions):
            return reply(llama=llama, messages=messages, stream=stream, **how)
        functions = given or app.functions
        allowed = _allowed(functions, choice)
        form = _format(llama)
        if app.in_grammar or choice != "auto":
            rules = call_grammar(allowed, form, must=choice != "auto")
            how["grammar"] = load("llama_cpp").LlamaGrammar.from_string(rules, verbose=False)
        listed = functions if app.listed or given else None
        found = _completed(llama, form.text(messages, asks=True, tools=listed), how)
        names = {one["function"]["name"] for one in functions}
        message, reason = _message(found, names)
        return _chunks(found, message, reason) if stream else _whole(found, message, reason)

    def _told(self, messages: list[Any]) -> list[Any]:
        """Put the app's system message before a chat, and cut what users say."""
        app, told = self._app, messages
        if app.cut:
            told = [
                one | {"content": app.cut(one["content"])}
                if one["role"] == "user" and isinstance(one["content"], str)
                else one
                for one in told
            ]
        if app.system and not any(one["role"] == "system" for one in told):
            told = [{"role": "system", "content": app.system}, *told]
        return told


def _allowed(functions: list[Function], choice: str | dict[str, Any]) -> list[Function]:
    """Return the functions that OpenAI's ``tool_choice`` leaves.

    Raises:
        ValueError: it names a function that there is not.
    """
    if isinstance(choice, str):
        return functions
    name = choice["function"]["name"]
    found = [one for one in functions if one["function"]["name"] == name]
    if not found:
        raise ValueError(f"tool_choice names {name}, which is not among the functions")
    return found


def _format(llama: Any) -> ChatFormat:
    ids = {"bos_token": llama.token_bos(), "eos_token": llama.token_eos()}
    texts = {n: llama.detokenize([t], special=True).decode() for n, t in ids.items() if t >= 0}
    return ChatFormat(llama.metadata["tokenizer.chat_template"], texts)


def _completed(llama: Any, prompt: str, how: dict[str, Any]) -> dict[str, Any]:
    """Complete a prompt whose special tokens are such."""
    known = {"temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "max_tokens", "stop",
             "presence_penalty", "frequency_penalty", "repeat_penalty", "grammar",
             "logit_bias"}  # fmt: skip
    given = {name: value for name, value in how.items() if name in known and value is not None}
    ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    found: dict[str, Any] = llama.create_completion(ids, **({"max_tokens": None} | given))
    return found


def _message(found: dict[str, Any], names: set[str]) -> tuple[dict[str, Any], str]:
    """Make the assistant's message of a completion, and say why it ended."""
    (choice,) = found["choices"]
    call = call_in(choice["text"])
    if call is None or call["name"] not in names:
        return {"role": "assistant", "content": choice["text"]}, choice["finish_reason"]
    function = call | {"arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    one = {"id": f"call_{uuid.uuid4().hex[:16]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [one]}, "tool_calls"


def _whole(found: dict[str, Any], message: dict[str, Any], reason: str) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return _about(found, "chat.completion") | {"choices": [choice], "usage": found["usage"]}


def _chunks(
    found: dict[str, Any], message: dict[str, Any], reason: str
) -> Iterator[dict[str, Any]]:
    """A call is of no use before it is whole: it comes in one piece."""
    if calls := message.get("tool_calls"):
        message = message | {"tool_calls": [{"index": 0} | one for one in calls]}
    for delta, ends in ((message, None), ({}, reason)):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ends}
        yield _about(found, "chat.completion.chunk") | {"choices": [choice]}


def _about(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chat{found['id']}", "object": kind, "created": found["created"],
            "model": found["model"]}  # fmt: skip
