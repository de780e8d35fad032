"""What a tokenizer puts before a text: one rule for calibration, measurement and export."""

from collections.abc import Callable, Sequence

_PROBE = "a"


def opening(tokenize: Callable[[str, bool], Sequence[int]]) -> list[int]:
    """The ids that a tokenizer begins every text with: its BOS, or nothing.

    Asked of the tokenizer itself, since what files beside it say of a BOS is not what every
    library obeys. Models that know a BOS read text without one as they read no other.

    Args:
        tokenize: ids of a text; with special tokens if the second argument is True.
    """
    plain, whole = list(tokenize(_PROBE, False)), list(tokenize(_PROBE, True))
    places = range(len(whole) - len(plain) + 1)
    before = next((i for i in places if whole[i : i + len(plain)] == plain), 0)
    return whole[:before]
