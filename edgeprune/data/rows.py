"""Rows in one common form, whatever columns their source uses."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from edgeprune.data import tool_calls
from edgeprune.data.task import Task
from edgeprune.support.errors import InputError

_LETTERED = re.compile(r"(?:^|\n)\s*\(?([A-Z])[.):]\s*")


@dataclass(frozen=True)
class Row:
    """One question or one text.

    Attributes:
        id: the row's stable name.
        fields: the values that templates can use: ``question``, ``context``, ``text``, ``choices``,
            ...; of tool calls ``messages``, ``tools`` and ``calls``.
        choices: texts to choose from; empty for short answers and text.
        answer: index of the correct choice; -1 if there are no choices.
        answers: correct answers as text.
    """

    id: str
    fields: dict[str, Any]
    choices: tuple[str, ...] = ()
    answer: int = -1
    answers: tuple[str, ...] = ()


def normalised(text: str) -> str:
    """Strip case, punctuation and spacing, to compare rows of different sources."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", plain))


def share_of(text: str) -> float:
    """Map a text to a stable number in [0, 1), the same on every machine and in every source."""
    digest = hashlib.sha256(normalised(text).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_row(raw: dict[str, Any], task: Task, mapping: dict[str, Any], origin: str) -> Row:
    """Convert a source's row to a `Row`; see `_make_row`.

    Raises:
        InputError: a column is missing, a column is not text, or an answer is not among
            the choices.
    """
    try:
        row = _make_row(raw, task, mapping, origin)
        json.dumps([row.id, row.fields], ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{origin}: a column holds a value that is not text: {error!r}.") from None
    return row


def _make_row(raw: dict[str, Any], task: Task, mapping: dict[str, Any], origin: str) -> Row:
    """Bring a source's row into one form.

    ``mapping`` names the source column of each row field: a column, a dotted path into nested
    columns, or a list of columns (choices that stand in columns of their own).
    """
    get = _Getter(raw, mapping, origin)
    if task.kind == "text":
        text = str(get.required("text"))
        return Row(_id(get, text), {"text": text, "title": get.optional("title") or ""})
    if task.kind == "tool_call":
        messages, tools, calls = (get.required(name) for name in ("messages", "tools", "calls"))
        fields, right = tool_calls.fields_of(messages, tools, calls, origin)
        identity = json.dumps([fields["messages"], fields["tools"]])
        return Row(_id(get, identity), fields, answers=(right,))
    question = str(get.required("question"))
    fields = {"question": question}
    context = get.optional("context")
    if context is not None:
        fields["context"] = (
            "\n".join(map(str, context)) if isinstance(context, list) else str(context)
        )
    identity = question + str(fields.get("context", ""))
    if task.kind == "short_answer":
        answers = _answers(get.required("answers"))
        if not answers:
            raise InputError(f"{origin}: expected at least one correct answer.")
        fields["rationale"] = get.optional("rationale") or ""
        return Row(_id(get, identity + str(answers)), fields, answers=answers)
    given = get.optional("choices")  # a row's own choices win: its answer counts among them
    labels, choices = (
        ([], list(task.choices))
        if given is None and task.choices
        else _choices(get.required("choices"), origin)
    )
    fields["choices"] = choices
    answer = _answer_index(get.required("answer"), choices, labels, origin)
    row_id = _id(get, identity + str(choices))
    return Row(row_id, fields, tuple(choices), answer, (choices[answer],))


class _Getter:
    def __init__(self, raw: dict[str, Any], mapping: dict[str, Any], origin: str):
        self._raw, self._mapping, self._origin = raw, mapping, origin

    def optional(self, name: str) -> Any:
        column = self._mapping.get(name, name)
        if isinstance(column, list):
            values = [self._follow(part) for part in column]
            return None if None in values else values
        return self._follow(column)

    def required(self, name: str) -> Any:
        value = self.optional(name)
        if value is None:
            raise InputError(
                f"{self._origin}: expected the column '{self._mapping.get(name, name)}' for "
                f"'{name}', found {', '.join(sorted(self._raw))}.",
                "Map the columns under 'fields' in the task's YAML file.",
            )
        return value

    def _follow(self, path: str) -> Any:
        value: Any = self._raw
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def _id(get: _Getter, text: str) -> str:
    given = get.optional("id")
    return str(given) if given is not None else hashlib.sha256(text.encode()).hexdigest()[:16]


def _answers(raw: Any) -> tuple[str, ...]:
    """Right answers; a worked solution that ends in ``#### x`` gives ``x`` (GSM8K's form)."""
    texts = raw if isinstance(raw, list) else [raw]
    return tuple(str(text).rpartition("####")[2].strip() for text in texts)


def _choices(raw: Any, origin: str) -> tuple[list[str], list[str]]:
    """Labels and texts from a list, a mapping, {text, label}, or lettered lines ("A. x")."""
    if isinstance(raw, dict) and "text" in raw:
        return [str(label) for label in raw.get("label", [])], [str(t) for t in raw["text"]]
    if isinstance(raw, dict):
        return [str(label) for label in raw], [str(text) for text in raw.values()]
    if isinstance(raw, list):
        return [], [str(text) for text in raw]
    parts = _LETTERED.split(str(raw))
    labels, texts = parts[1::2], [text.strip() for text in parts[2::2]]
    if len(texts) < 2:
        raise InputError(
            f"{origin}: cannot read choices from {str(raw)[:80]!r}; expected a list or a mapping "
            "of texts."
        )
    return labels, texts


def _answer_index(raw: Any, choices: list[str], labels: list[str], origin: str) -> int:
    if isinstance(raw, bool) or str(raw) in ("True", "False"):
        raw = "yes" if str(raw) == "True" else "no"
    index = raw if isinstance(raw, int) else _find(str(raw).strip(), choices, labels)
    if not 0 <= index < len(choices):
        raise InputError(f"{origin}: the answer {raw!r} is not among the choices {choices}.")
    return index


def _find(text: str, choices: list[str], labels: list[str]) -> int:
    """Where an answer given as text, label, 'C. text' or digits stands among the choices."""
    stripped = [choice.strip() for choice in choices]
    if text in labels:
        return labels.index(text)
    if text in stripped:
        return stripped.index(text)
    if len(text) == 1 and text.isalpha():
        return ord(text.upper()) - ord("A")
    if text.isdigit():
        return int(text)
    match = _LETTERED.match(text)
    return ord(match[1]) - ord("A") if match else -1
