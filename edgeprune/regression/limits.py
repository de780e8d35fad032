"""Limits of a device that a build must keep, whatever it was before: ``configs/devices/*.yaml``."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune.regression.measurement import Measurement
from edgeprune.regression.verdicts import ERROR, Finding
from edgeprune.support.errors import InputError, unknown
from edgeprune.support.resources import read_yaml, shipped
from runtime_tests.paired import speed_ratio


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
    """Hold what a build's artifact was measured at against a device's limits.

    A speed held, or regressed, if its whole interval over processes did; else it is unclear.
    """
    one = measured.artifacts[measured.own]
    speeds = (
        ("decode", limits.min_decode, one.of("decode"), "at least {:g} tokens/s"),
        ("prefill", limits.min_prefill, one.of("prefill"), "at least {:g} tokens/s"),
    )
    found = [
        _speed(name, values / limit, f"{np.median(values):.3g} tokens/s", required.format(limit))
        for name, limit, values, required in speeds
        if limit is not None
    ]
    if limits.max_first_token is not None:
        seconds = measured.lengths.prefill / one.of("prefill")
        required = f"at most {limits.max_first_token:g} s"
        share = limits.max_first_token / seconds
        found.append(_speed("first token", share, f"{np.median(seconds):.3g} s", required))
    sizes = (
        ("file", limits.max_file_mb, one.file_bytes / 1e6),
        ("peak memory", limits.max_peak_memory_mb, one.peak_memory_bytes / 1e6),
    )
    found += [
        Finding(
            f"{name}, limit", "held" if value <= limit else "regressed",
            f"{value:.3g} MB; the device requires at most {limit:g} MB",
        )
        for name, limit, value in sizes if limit is not None
    ]  # fmt: skip
    return found


def _speed(name: str, shares: np.ndarray, value: str, required: str) -> Finding:
    """Judge speeds of processes, as shares of the limit."""
    there = speed_ratio([[1.0]] * len(shares), shares[:, None].tolist(), 1 - ERROR)
    said = (
        f"{value}; the device requires {required}; this is {there.value:.2f} times as fast "
        f"({there.low:.2f}-{there.high:.2f}, {len(shares)} processes)"
    )
    if there.low >= 1:
        return Finding(f"{name}, limit", "held", said)
    if there.high < 1:
        return Finding(f"{name}, limit", "regressed", said)
    return Finding(f"{name}, limit", "unclear", f"{said}, which is too close to tell")
