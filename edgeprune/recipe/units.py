"""Values with units in recipes."""

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Parse a duration such as ``90s``, ``10m`` or ``2h`` to seconds.

    Raises:
        ValueError: the text has another form.
    """
    if not re.fullmatch(r"\d+(\.\d+)?[smh]", text):
        raise ValueError(f"'{text}' is not a duration such as 90s, 10m or 2h")
    return float(text[:-1]) * _SECONDS[text[-1]]


def share(text: str) -> float:
    """Parse a percentage such as ``2%`` to a fraction.

    Raises:
        ValueError: the text has another form.
    """
    if not re.fullmatch(r"\d+(\.\d+)?%", text):
        raise ValueError(f"'{text}' is not a percentage such as 2%")
    return float(text.rstrip("%")) / 100
