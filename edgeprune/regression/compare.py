"""Two measurements beside each other."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.regression import verdicts
from edgeprune.regression.verdicts import Finding
from edgeprune.support.errors import UsageError


@dataclass(frozen=True)
class Thresholds:
    """What may be lost, as shares where nothing else is said.

    Attributes:
        speed: of the baseline artifact's speed, both timed in the same rounds.
        drift: of the speed as a multiple of the dense twin's, beside that of the baseline's own
            day. On a shared machine that ratio wanders: by 10 % in decode and 30 % in prefill,
            which is bound by computing and suffers more from neighbours
            (docs/measured/check.md). Prefill may lose twice as much.
        total_speed: of tokens per second, on the same machine; prefill may lose twice as much.
        accuracy: points of 100.
        nats: per answer token.
        perplexity: nats of general text.
        size: of the file.
        memory: at its peak.
    """

    speed: float = 0.05
    drift: float = 0.2
    total_speed: float = 0.25
    accuracy: float = 2.0
    nats: float = 0.02
    perplexity: float = 0.02
    size: float = 0.01
    memory: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:  # NaN would hold everything
                raise UsageError(f"The threshold {name} is {value}: expected a number from 0 on.")


def compare(before: dict[str, Any], after: dict[str, Any], thresholds: Thresholds) -> list[Finding]:
    """Hold a build's measurement against a baseline's, both as `measure` gives them."""
    name = "pruned" if "pruned" in after["artifacts"] else "dense"
    if name not in before["artifacts"]:
        return [Finding("build", "unclear", "the baseline was not pruned, and this build is")]
    old, new = before["artifacts"][name], after["artifacts"][name]
    return [
        *_speeds(before, after, name, thresholds),
        *_quality(before, after, old, new, thresholds),
        verdicts.size("file", old["file_bytes"], new["file_bytes"], thresholds.size, "B"),
        verdicts.size(
            "peak memory", old["peak_memory_bytes"], new["peak_memory_bytes"], thresholds.memory,
            "B",
        ),
    ]  # fmt: skip


def _speeds(
    before: dict[str, Any], after: dict[str, Any], name: str, thresholds: Thresholds
) -> list[Finding]:
    if before["lengths"] != after["lengths"]:
        return [Finding("speed", "unclear", "prompts or answers of another length were timed")]
    same_machine = before["machine"] == after["machine"]
    findings = []
    if not after.get("baseline_now"):
        said = (
            "the baseline's artifact is gone or was changed, so that nothing was timed in the same "
            f"rounds: less than {thresholds.drift:.0%} can't be seen"
        )
        findings.append(Finding("x baseline", "unclear" if same_machine else "held", said))
    for kind, times in (("prefill", 2), ("decode", 1)):
        new = after["artifacts"][name][kind]
        if beside := after.get("baseline_now"):
            findings.append(
                verdicts.paired_speed(f"{kind}, x baseline", beside[kind], new, thresholds.speed)
            )
        if name == "pruned":
            then, now = (_ratios(one["artifacts"], kind) for one in (before, after))
            findings.append(verdicts.speed(f"{kind}, x dense", then, now, times * thresholds.drift))
        if same_machine:
            old = before["artifacts"][name][kind]
            findings.append(verdicts.speed(kind, old, new, times * thresholds.total_speed))
    if not same_machine:
        said = "measured on another machine: only multiples of the dense model are compared"
        findings.append(Finding("tokens/s", "held" if name == "pruned" else "unclear", said))
    return findings


def _ratios(artifacts: dict[str, Any], kind: str) -> list[float]:
    """Speed as a multiple of the dense twin's, round by round: a slow minute hits both."""
    return (np.array(artifacts["pruned"][kind]) / np.array(artifacts["dense"][kind])).tolist()


def _quality(
    before: dict[str, Any], after: dict[str, Any], old: Any, new: Any, thresholds: Thresholds
) -> list[Finding]:
    findings = []
    mine, theirs = new["answers"], old["answers"]
    if before["task"] != after["task"] or mine["rows"] != theirs["rows"]:
        findings.append(Finding("answers", "unclear", "other questions were asked"))
    else:
        if mine["correct"][0] is not None:
            findings.append(_accuracy(theirs, mine, thresholds.accuracy))
        findings.append(
            verdicts.likelihood(
                "nats per answer token", theirs["nats"], mine["nats"], mine["tokens"],
                thresholds.nats,
            )
        )  # fmt: skip
    windows = len(new["general_nats"])
    if before["general"] != after["general"] or windows != len(old["general_nats"]):
        findings.append(Finding("general text", "unclear", "another text was read"))
    else:
        tokens = [new["general_tokens"] / windows] * windows
        findings.append(
            verdicts.likelihood(
                "nats of general text", old["general_nats"], new["general_nats"], tokens,
                thresholds.perplexity, "windows of text",
            )
        )  # fmt: skip
    return findings


def _accuracy(before: dict[str, Any], after: dict[str, Any], threshold: float) -> Finding:
    """Of what answers every row as likely as before, nothing is left to chance."""
    if all(before[name] == after[name] for name in ("correct", "nats")):
        return Finding("accuracy", "held", f"equal on {len(after['rows'])} rows")
    return verdicts.accuracy(before["correct"], after["correct"], threshold)
