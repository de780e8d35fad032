"""Conversations as calibration and training data: rows of messages, packed into sequences."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgeprune.data.encoding import Encoded
from edgeprune.data.jsonl import read_jsonl
from edgeprune.data.rows import Row, share_of
from edgeprune.data.streams import Stream, filled
from edgeprune.data.template import ChatTemplate
from edgeprune.support.errors import InputError

# Share of conversations that nothing learns from: what a build still says is measured on them.
_HELD_OUT = 1 / 3


def make_conversation(messages: Sequence[dict[str, Any]]) -> Row:
    """Make a row of messages; equal ones have the same id."""
    text = json.dumps(list(messages), ensure_ascii=False, sort_keys=True)
    return Row(hashlib.sha256(text.encode()).hexdigest()[:16], {"messages": list(messages)})


def read_conversations(path: Path) -> list[Row]:
    """Read rows with ``messages``, each with a ``role`` and its ``content``.

    Raises:
        InputError: a row has no messages, or none of the assistant's.
    """
    rows = []
    for number, raw in enumerate(read_jsonl(path), 1):
        messages = raw.get("messages")
        if not isinstance(messages, list) or not _is_conversation(messages):
            raise InputError(
                f"{path}, row {number}: expected 'messages', a list of objects with 'role' and "
                "'content', one of them the assistant's.",
                'Such as {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", '
                '"content": "Hello."}]}',
            )
        rows.append(make_conversation(messages))
    return rows


def _is_conversation(messages: list[Any]) -> bool:
    """Tell whether there are roles and contents, and something to learn."""
    good = all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one
        for one in messages
    )
    return good and any(one["role"] == "assistant" for one in messages)


def divided(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Divide conversations, by a stable hash, into those to learn from and the held-out ones."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[share_of(row.id) < _HELD_OUT].append(row)
    return sides


def pack_conversations(
    template: ChatTemplate, rows: Sequence[Row], samples: int, length: int, seed: int
) -> Stream:
    """Fill sequences with conversations, each of which begins as its template says.

    A set that is too small gives fewer sequences, or none.
    """

    def encode(row: Row) -> Encoded:
        return template.conversation(row.fields["messages"])

    return filled(rows, encode, samples, length, seed)[0]
