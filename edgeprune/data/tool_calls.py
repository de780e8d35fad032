"""Rows that ask for a call of one of an app's functions, or for none."""

import json
from collections.abc import Iterable
from typing import Any

from edgeprune.formats.chat import NO_CALL, Function, Message, as_call
from edgeprune.support.errors import InputError

Call = dict[str, Any]  # ``name``, and ``arguments``, each with the list of values that are right
_MAY_BE_LEFT_OUT = ""  # as in the Berkeley Function Calling Leaderboard


def fields_of(messages: Any, tools: Any, calls: Any, origin: str) -> tuple[dict[str, Any], str]:
    """Check a row's columns, and return its fields and its right answer as text.

    Raises:
        InputError: messages, functions or calls are not in the form that is asked for.
    """
    good = (
        isinstance(messages, list)
        and any(isinstance(one, dict) and one.get("role") == "user" for one in messages)
        and isinstance(tools, list)
        and all(isinstance(one, dict) and "name" in one.get("function", {}) for one in tools)
        and isinstance(calls, list)
        and len(calls) <= 1
        and all(isinstance(one, dict) and {"name", "arguments"} <= set(one) for one in calls)
    )
    if not good:
        raise InputError(
            f"{origin}: expected 'messages' with roles and contents, 'tools' in OpenAI's form, and "
            "'calls', with one object of 'name' and 'arguments' or none.",
            "Each argument has a list of the values that are right; an empty text among them says "
            "that it may be left out.",
        )
    known = {tool["function"]["name"] for tool in tools}
    for call in calls:
        if call["name"] not in known:
            raise InputError(
                f"{origin}: calls {call['name']}, but its tools are {', '.join(sorted(known))}."
            )
    asked = [one["content"] for one in messages if one["role"] == "user"]
    fields = {"question": asked[-1], "messages": messages, "tools": tools, "calls": calls}
    return fields, json.dumps(_call(calls[0])) if calls else NO_CALL


def reply(calls: list[Call]) -> Message:
    """Return the assistant's message that is right."""
    if not calls:
        return {"role": "assistant", "content": NO_CALL}
    call = _call(calls[0])
    return as_call(call["name"], call["arguments"])


def refusal(question: str) -> dict[str, Any]:
    """Make the fields of a row that asks for nothing an app can do."""
    messages = [{"role": "user", "content": question}]
    return {"question": question, "messages": messages, "tools": [], "calls": []}


def joined(rows: Iterable[list[Function]]) -> list[Function]:
    """Join the functions of rows by name; where their parameters differ, all are allowed."""
    found: dict[str, dict[str, Any]] = {}
    for tools in rows:
        for tool in tools:
            function = tool["function"]
            known = found.setdefault(function["name"], {"name": function["name"], "parameters": {}})
            known["parameters"] = _both(known["parameters"], function.get("parameters", {}))
    return [{"type": "function", "function": function} for function in found.values()]


def _call(call: Call) -> Call:
    """Choose the first right value of each argument; one that may be left out is."""
    return {"name": call["name"], "arguments": _object(call["arguments"])}


def _object(right: dict[str, Any]) -> dict[str, Any]:
    values = {name: _first(values) for name, values in right.items()}
    return {name: value for name, value in values.items() if value != _MAY_BE_LEFT_OUT}


def _first(right: Any) -> Any:
    """Return the first right value; objects inside it have lists of right values of their own."""
    value = right[0] if isinstance(right, list) and right else right
    if isinstance(value, list):
        return [_object(one) if isinstance(one, dict) else one for one in value]
    return _object(value) if isinstance(value, dict) else value


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Join two schemas of parameters: properties of either, required where both require."""
    if not one:
        return other
    properties = {**other.get("properties", {})}
    for name, schema in one.get("properties", {}).items():
        if properties.setdefault(name, schema) != schema:
            enums = [part.get("enum") for part in (schema, properties[name])]
            merged = {k: v for k, v in schema.items() if k not in ("enum", "default")}
            if all(enums):
                merged["enum"] = list(dict.fromkeys([*enums[0], *enums[1]]))
            properties[name] = merged
    required = [name for name in one.get("required", []) if name in other.get("required", [])]
    return {"type": "object", "properties": properties, "required": required}
