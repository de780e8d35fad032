"""Limits of a device that a build must keep, whatever it was before: ``configs/devices/*.yaml``."""

from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune.regression.measurement import Measurement
from edgeprune.regression.verdicts import Finding
from edgeprune.support.errors import InputError, unknown
from edgeprune.support.resources import read_yaml, shipped


class Limits(BaseModel):
    """What a device requires of a build; what is not set is not required."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    description: str = ""
    min_decode: float | None = Field(None, gt=0, description="tokens/s")
    min_prefill: float | None = Field(None, gt=0, description="tokens/s")
    max_first_token: float | None = Field(None, gt=0, description="seconds")
    max_file_mb: float | None = Field(None, gt=0)
    max_peak_memory_mb: float | None = Field(None, gt=0)


def read_limits(name: str) -> Limits:
    """A shipped device by its name, or a file.

    Raises:
        UsageError: no device of that name.
        InputError: the file makes no sense.
    """
    known = shipped("devices")
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None:
        raise unknown("device", name, known)
    try:
        return Limits.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg']}.") from None


def judge(limits: Limits, measured: Measurement) -> list[Finding]:
    """Hold what a build's artifact was measured at against a device's limits."""
    one = measured.artifacts[measured.own]
    at_least = (
        ("decode", limits.min_decode, median(one.decode), "tokens/s"),
        ("prefill", limits.min_prefill, median(one.prefill), "tokens/s"),
    )
    at_most = (
        ("first token", limits.max_first_token, median(one.first_token), "s"),
        ("file", limits.max_file_mb, one.file_bytes / 1e6, "MB"),
        ("peak memory", limits.max_peak_memory_mb, one.peak_memory_bytes / 1e6, "MB"),
    )
    found = [(n, limit, value, unit, value >= limit, "at least")
             for n, limit, value, unit in at_least if limit is not None]  # fmt: skip
    found += [(n, limit, value, unit, value <= limit, "at most")
              for n, limit, value, unit in at_most if limit is not None]  # fmt: skip
    return [
        Finding(
            f"{name}, limit", "held" if holds else "regressed",
            f"{value:.3g} {unit}; the device requires {word} {limit:g}",
        )
        for name, limit, value, unit, holds, word in found
    ]  # fmt: skip
