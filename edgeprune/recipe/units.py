"""Text with a unit, as people write it in recipes."""

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """A duration such as ``90s``, ``10m`` or ``2h``, in seconds.

    Raises:
        ValueError: the text is none.
    """
    if not re.fullmatch(r"\d+(\.\d+)?[smh]", text):
        raise ValueError(f"'{text}' is not a duration such as 90s, 10m or 2h")
    return float(text[:-1]) * _SECONDS[text[-1]]


def share(text: str) -> float:
    """A percentage such as ``2%``, as a share of one.

    Raises:
        ValueError: the text is none.
    """
    if not re.fullmatch(r"\d+(\.\d+)?%", text):
        raise ValueError(f"'{text}' is not a percentage such as 2%")
    return float(text.rstrip("%")) / 100
