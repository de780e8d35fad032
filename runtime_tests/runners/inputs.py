"""What every runner reads and how it chooses: windows, tokens for timing, the next token."""

import math
from collections.abc import Iterator
from typing import Any

_WINDOW = 512


def windows(ids: list[int], opening: list[int]) -> Iterator[tuple[list[int], int]]:
    """Whole windows of 512 tokens, one behind the other; what is left at the end is not read.

    Args:
        ids: of the text.
        opening: what each window begins with, as `edgeprune.models.opening.opening` gives it.

    Yields:
        The window, and how many tokens at its start are given: the opening, or, of a tokenizer
        without one, the first of the text. All others are predicted.
    """
    step = _WINDOW - len(opening)
    for start in range(0, len(ids) - step + 1, step):
        yield [*opening, *ids[start : start + step]], max(len(opening), 1)


def begun(ids: list[int], opening: list[int], room: int) -> list[int]:
    """A prompt behind its opening; of one that is too long, the end.

    Args:
        ids: of the prompt alone.
        opening: as for `windows`.
        room: how many tokens there may be; more than the opening has.
    """
    return [*opening, *ids[len(opening) - room :]]


def timing_ids(tokens: int, vocabulary: int) -> list[int]:
    """Token ids that only depend on their number; which ones doesn't matter for speed."""
    return [100 + (i * 7919) % (vocabulary - 100) for i in range(tokens)]


def most_likely(logits: Any) -> int:
    """The token of the highest logit, (vocabulary,) of numpy or torch.

    Raises:
        RuntimeError: that is NaN or infinite; both libraries take NaN for the highest.
    """
    token = int(logits.argmax())
    if not math.isfinite(float(logits[token])):
        raise RuntimeError("the logits hold NaN or infinity while it writes an answer")
    return token
