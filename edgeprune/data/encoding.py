"""Texts as tokens, with the tokens that are of an answer."""

from collections.abc import Iterable
from typing import Any

Encoded = tuple[list[int], list[bool]]  # tokens, and which of them are of an answer


def encoded(tokenizer: Any, text: str, answers: Iterable[range]) -> Encoded:
    """Tokenise a text, and tell which tokens end within spans of its characters."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = list(answers)
    return found.input_ids, [
        any(span.start < end <= span.stop for span in spans) for _, end in found.offset_mapping
    ]
