"""A model's chat template: conversations as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeprune.data.encoding import Encoded, encoded
from edgeprune.formats.chat import ChatFormat, Message, common

# Stands for what a user says while a template is taken apart.
_MARK = "\u2983edgeprune\u2984"


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer that has one.

    Attributes:
        tokenizer: transformers' tokenizer.
    """

    tokenizer: Any

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatTemplate | None":
        """Return a tokenizer's template; None of a base model, which has none."""
        return cls(tokenizer) if getattr(tokenizer, "chat_template", None) else None

    @cached_property
    def format(self) -> ChatFormat:
        """The template as text."""
        return ChatFormat(self.tokenizer.get_chat_template(), self.tokenizer.special_tokens_map)

    def text(self, messages: Sequence[Message], asks: bool = False, tools: Any = None) -> str:
        """Render a conversation; see `ChatFormat.text`."""
        return self.format.text(messages, asks, tools)

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Return the tokens that the assistant answers to."""
        return self._tokens(self.text(messages, asks=True, tools=tools))

    def conversation(
        self, messages: Sequence[Message], tools: Any = None, only_last: bool = False
    ) -> Encoded:
        """Return a conversation's tokens, and which of them the assistant writes.

        With ``only_last``, only those of the last message count. What ends a turn is the
        assistant's, too: it has to be learnt like the words before it. If the last message is
        ``cut``, it ends with its last word instead.
        """
        whole = self.text(messages, tools=tools)
        if messages[-1].get("cut"):
            before, last, _ = whole.rpartition(messages[-1]["content"].strip())
            whole = before + last or whole  # of a template that changes it, all is kept
        spans = [
            range(
                common(self.text(messages[:place], asks=True, tools=tools), whole),
                common(self.text(messages[: place + 1], tools=tools).rstrip(), whole),
            )
            for place, message in enumerate(messages)
            if message["role"] == "assistant" and (place == len(messages) - 1 or not only_last)
        ]
        return encoded(self.tokenizer, whole, spans)

    def empty_user_turn(self) -> list[int]:
        """Return the tokens before a user's first words, from which a model writes a user's turn.

        Self-synthesis of instructions (Magpie, arXiv 2406.08464).
        """
        return self._tokens(self.text([{"role": "user", "content": _MARK}]).partition(_MARK)[0])

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found
