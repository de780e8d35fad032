"""A model's chat template as text: messages and functions in, what the model reads out.

Where a template knows nothing of functions, they are listed in the system message and a call is
plain JSON: that is all of the fallback, and it is the same in calibration, measurement and use.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.support.errors import InputError
from edgeprune.support.files import read_json

Message = dict[str, Any]
Function = dict[str, Any]  # in OpenAI's form

NO_CALL = "No function fits."
_TOLD = (
    "Functions:\n{functions}\n\n"
    'Answer with one call, {{"name": ..., "arguments": {{...}}}}, or with: ' + NO_CALL
)
_ARGUMENTS = ("arguments", "parameters")  # by either name, models write them
# Stands for a function while a template is taken apart.
_MARK = "edgeprune_mark"


@dataclass(frozen=True)
class Turn:
    """A row as a turn of the model's chat template.

    Attributes:
        messages: before the assistant's.
        reply: the assistant's message that is right.
        tools: functions that the prompt lists.
    """

    messages: list[Message]
    reply: Message
    tools: list[Function]


@dataclass(frozen=True)
class ChatFormat:
    """A chat template with the special tokens it may name.

    Attributes:
        source: the template, Jinja2.
        special: texts of special tokens, such as ``bos_token``.
    """

    source: str
    special: Mapping[str, str]

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template lists functions itself."""
        from jinja2 import Environment, TemplateSyntaxError, meta

        environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # only parsed
        try:
            return "tools" in meta.find_undeclared_variables(environment.parse(self.source))
        except TemplateSyntaxError:  # of a syntax beyond Jinja2's own, as transformers adds
            return "tools" in self.source

    def text(
        self, messages: Sequence[Message], asks: bool = False, tools: list[Function] | None = None
    ) -> str:
        """Render a conversation.

        Args:
            messages: of roles ``system``, ``user``, ``assistant`` and so on, with their content;
                calls of functions stand in ``tool_calls``, in OpenAI's form.
            asks: whether the assistant's next turn is opened at the end.
            tools: functions that the model may call, in OpenAI's form.

        Raises:
            InputError: the template fails.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        said = list(messages)
        if not self.knows_tools:
            said = list(map(_plain, _told(said, tools) if tools else said))
        try:
            (found,), _ = render_jinja_template(
                conversations=[said],
                tools=tools or None,
                chat_template=self.source,
                add_generation_prompt=asks,
                **self.special,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"The model's chat template failed on {len(messages)} messages: {error}.",
                "Check the roles and contents of the messages, and the template beside the model.",
            ) from None
        return str(found)

    def reply(
        self, messages: Sequence[Message], reply: Message, tools: list[Function] | None = None
    ) -> str:
        """Return a reply with what ends it, as it follows the opened turn of the assistant."""
        before = self.text(messages, asks=True, tools=tools)
        whole = self.text([*messages, reply], tools=tools)
        return whole[common(before, whole) :].rstrip()

    @cached_property
    def around_call(self) -> tuple[str, str] | None:
        """What stands before and behind a call's JSON; None if calls are not written as JSON."""
        asked, call = {"role": "user", "content": "?"}, as_call(_MARK, {})
        text = self.reply([asked], call)
        plain = _plain(call)["content"]
        before, found, after = text.partition(plain)
        ends = self.reply([asked], {"role": "assistant", "content": _MARK}).partition(_MARK)[2]
        return (before, after.removesuffix(ends)) if found else None


def chat_format_beside(model: Path) -> ChatFormat | None:
    """Read the chat template in the files of a tokenizer beside a model; None if there is none."""
    named = read_json(model.with_name("tokenizer_config.json")) or {}
    file = model.with_name("chat_template.jinja")
    source = file.read_text(encoding="utf-8") if file.exists() else named.get("chat_template")
    if not isinstance(source, str):
        return None
    special = {name: named.get(name) for name in ("bos_token", "eos_token")}
    texts = {n: t.get("content") if isinstance(t, dict) else t for n, t in special.items()}
    return ChatFormat(source, {name: text for name, text in texts.items() if text})


def as_call(name: str, arguments: Mapping[str, Any]) -> Message:
    """Make the assistant's message that calls a function."""
    function = {"name": name, "arguments": dict(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }


def plain_call(message: Message) -> str:
    """Return the calls of a message as JSON, one a line."""
    calls = [call["function"] for call in message["tool_calls"]]
    return "\n".join(json.dumps(call, ensure_ascii=False) for call in calls)


def call_in(text: str) -> dict[str, Any] | None:
    """Find the first call in a text: a JSON object with a name and an object of arguments."""
    for found in _objects(text):
        arguments = next((found[name] for name in _ARGUMENTS if name in found), None)
        if isinstance(arguments, str):  # as OpenAI's form has it
            arguments = next(_objects(arguments), None)
        if isinstance(found.get("name"), str) and isinstance(arguments, dict):
            return {"name": found["name"], "arguments": arguments}
    return None


def common(one: str, other: str) -> int:
    """Return the length of the longest common beginning."""
    same = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Find JSON objects in a text, the outermost ones first."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield found
        place = text.find("{", end)


def _plain(message: Message) -> Message:
    """Write a message's calls as JSON in its content."""
    if not message.get("tool_calls"):
        return message
    texts = [text for text in (message.get("content"), plain_call(message)) if text]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return rest | {"content": "\n".join(texts)}


def _told(messages: list[Message], tools: list[Function]) -> list[Message]:
    """List functions in the system message."""
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    told = _TOLD.format(functions="\n".join(lines))
    if messages and messages[0]["role"] == "system":
        first, *rest = messages
        return [first | {"content": f"{first['content']}\n\n{told}"}, *rest]
    return [{"role": "system", "content": told}, *messages]
