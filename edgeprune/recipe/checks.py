"""Validators of single settings, for pydantic."""

from collections.abc import Callable, Collection
from typing import Any

from pydantic import AfterValidator

from edgeprune.planning.patterns import parse
from edgeprune.recovery import RECOVERIES
from edgeprune.support.errors import unknown


def known_name(kind: str, names: Collection[str]) -> AfterValidator:
    """Accept a name from a list, in lower case."""

    def check(value: str) -> str:
        value = value.lower()  # GGUF is as good as gguf
        if value not in names:
            raise ValueError(str(unknown(kind, value, names)))
        return value

    return AfterValidator(check)


def with_unit(read: Callable[[str], float]) -> AfterValidator:
    """Accept text that ``read`` can parse."""

    def check(value: str) -> str:
        read(value)
        return value

    return AfterValidator(check)


def known_pattern(value: str) -> str:
    """What `edgeprune.planning.patterns.parse` reads."""
    parse(value)
    return value


def fixed_sparsity(pattern: str) -> float | None:
    """The sparsity that a pattern means; None: any."""
    return parse(pattern).fixed


def base_60(value: Any) -> Any:
    """YAML 1.1 reads 2:4 without quotes in base 60."""
    return f"{value // 60}:{value % 60}" if type(value) is int else value


def share_or_pattern(value: Any) -> float | str:
    """A share of zeros, or an N:M pattern."""
    if type(value) is int and value > 1:
        value = base_60(value)
    return known_pattern(value) if isinstance(value, str) and ":" in value else float(value)


def comma_separated(value: Any) -> Any:
    """Accept a list, also as comma-separated text."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value.strip() else []
    return [] if value is None else value  # as YAML reads nothing behind a name


def ways_in_order(value: list[str]) -> list[str]:
    """Accept ways of training, each at most once, in their fixed order."""
    for way in value:
        if way not in RECOVERIES:
            raise ValueError(str(unknown("way of training", way, RECOVERIES)))
    if value != [way for way in RECOVERIES if way in value]:
        raise ValueError(
            f"give each way of training at most once, in the order {', '.join(RECOVERIES)}"
        )
    return value
