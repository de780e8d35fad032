"""Values with units in recipes."""

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_BYTES = {"K": 1e3, "M": 1e6, "G": 1e9}


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


def byte_count(text: str) -> float:
    """Parse a size such as ``60MB`` or ``1.5GB``, in powers of 1000, to bytes.

    Raises:
        ValueError: the text has another form.
    """
    if not re.fullmatch(r"\d+(\.\d+)?[KMG]B", text, re.IGNORECASE):
        raise ValueError(f"'{text}' is not a size such as 60MB or 1.5GB")
    return float(text[:-2]) * _BYTES[text[-2].upper()]
