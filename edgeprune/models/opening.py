"""The tokens before every text: one rule for calibration, measurement and export."""

from collections.abc import Callable, Sequence

_PROBE = "a"


def opening(tokenize: Callable[[str, bool], Sequence[int]]) -> list[int]:
    """Find the ids that a tokenizer puts before every text: its BOS, or nothing.

    Asked of the tokenizer itself, since what files beside it say of a BOS is not what every
    library obeys. Text without the BOS is out of distribution for a model that was trained with
    one.

    Args:
        tokenize: maps a text to ids, with special tokens if the second argument is True.
    """
    plain, whole = list(tokenize(_PROBE, False)), list(tokenize(_PROBE, True))
    places = range(len(whole) - len(plain) + 1)
    before = next((i for i in places if whole[i : i + len(plain)] == plain), 0)
    return whole[:before]
