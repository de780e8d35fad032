"""Inputs shared by all runners: windows, tokens for timing, the next token."""

import math
from collections.abc import Iterator
from typing import Any

_WINDOW = 512


def windows(ids: list[int], opening: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yield consecutive whole windows of 512 tokens; the remainder at the end is not used.

    Args:
        ids: token ids of the text.
        opening: tokens before each window, from `edgeprune.models.opening.opening`.

    Yields:
        The window, and the number of tokens at its start that are given: the opening, or without
        one the first token of the text. All others are predicted.
    """
    step = _WINDOW - len(opening)
    for start in range(0, len(ids) - step + 1, step):
        yield [*opening, *ids[start : start + step]], max(len(opening), 1)


def begun(ids: list[int], opening: list[int], room: int) -> list[int]:
    """Put the opening before a prompt; a prompt that is too long is cut at its start.

    Args:
        ids: token ids of the prompt alone.
        opening: opening tokens, as for `windows`.
        room: largest number of tokens; more than the opening has.
    """
    return [*opening, *ids[len(opening) - room :]]


def timing_ids(tokens: int, vocabulary: int) -> list[int]:
    """Return token ids that depend only on their number; the choice does not matter for speed."""
    return [100 + (i * 7919) % (vocabulary - 100) for i in range(tokens)]


def most_likely(logits: Any) -> int:
    """Return the token with the highest logit, (vocabulary,) in numpy or torch.

    Raises:
        RuntimeError: that logit is NaN or infinite; both libraries treat NaN as the highest.
    """
    token = int(logits.argmax())
    if not math.isfinite(float(logits[token])):
        raise RuntimeError("the logits are NaN or infinite while generating an answer")
    return token
