"""Two measurements beside each other."""

import math
from dataclasses import dataclass

import numpy as np

from edgeprune.manifest.results import Answers
from edgeprune.regression import verdicts
from edgeprune.regression.measurement import MeasuredArtifact, Measurement
from edgeprune.regression.verdicts import Finding
from edgeprune.support.errors import UsageError


@dataclass(frozen=True)
class Thresholds:
    """What may be lost, as shares where nothing else is said.

    Attributes:
        speed: of the baseline artifact's speed, both timed in the same rounds.
        drift: of the speed relative to the dense baseline's, beside that of the earlier
            measurement. On a shared machine that ratio wanders: by 10 % in decode and 30 % in
            prefill, which is bound by computing and suffers more from neighbours
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


def compare(before: Measurement, after: Measurement, thresholds: Thresholds) -> list[Finding]:
    """Hold a build's measurement against a baseline's."""
    name = after.own
    if name not in before.artifacts:
        said = "the build is pruned and the baseline is not, so they can't be compared"
        return [Finding("build", "unclear", said)]
    old, new = before.artifacts[name], after.artifacts[name]
    return [
        *_speeds(before, after, name, thresholds),
        *_answers(before, after, old, new, thresholds),
        _general_text(before, after, old, new, thresholds),
        verdicts.size("file", old.file_bytes, new.file_bytes, thresholds.size, "B"),
        verdicts.size(
            "peak memory", old.peak_memory_bytes, new.peak_memory_bytes, thresholds.memory, "B"
        ),
    ]


def _speeds(
    before: Measurement, after: Measurement, name: str, thresholds: Thresholds
) -> list[Finding]:
    if before.lengths != after.lengths:
        said = "the baseline was timed with another length of prompt or answer"
        return [Finding("speed", "unclear", said)]
    same_machine = before.machine == after.machine
    findings = []
    if not after.baseline_now:
        said = (
            "the baseline's artifact is missing or has changed, so it could not be timed in the "
            f"same rounds: a change of less than {thresholds.drift:.0%} can't be detected"
        )
        findings.append(Finding("x baseline", "unclear" if same_machine else "held", said))
    old, new = before.artifacts[name], after.artifacts[name]
    for kind, times in (("prefill", 2), ("decode", 1)):
        samples = new.of(kind)
        if beside := after.baseline_now:
            measure = f"{kind}, x baseline"
            findings.append(
                verdicts.paired_speed(measure, beside.of(kind), samples, thresholds.speed)
            )
        if name == "pruned":
            then, now = (_ratios(one, kind) for one in (before, after))
            findings.append(verdicts.speed(f"{kind}, x dense", then, now, times * thresholds.drift))
        if same_machine:
            limit = times * thresholds.total_speed
            findings.append(verdicts.speed(kind, old.of(kind), samples, limit))
    if not same_machine:
        said = (
            "the baseline was measured on another machine, so only speeds relative to the dense "
            "model are compared"
        )
        findings.append(Finding("tokens/s", "held" if name == "pruned" else "unclear", said))
    return findings


def _ratios(measured: Measurement, kind: str) -> list[float]:
    """Speed relative to the dense baseline, round by round: a slow minute hits both."""
    pruned, dense = (np.array(measured.artifacts[name].of(kind)) for name in ("pruned", "dense"))
    ratios: list[float] = (pruned / dense).tolist()
    return ratios


def _answers(
    before: Measurement,
    after: Measurement,
    old: MeasuredArtifact,
    new: MeasuredArtifact,
    thresholds: Thresholds,
) -> list[Finding]:
    if before.task != after.task or new.answers.rows != old.answers.rows:
        return [Finding("answers", "unclear", "the baseline was measured on other questions")]
    findings = []
    if new.answers.correct[0] is not None:
        findings.append(_accuracy(old.answers, new.answers, thresholds.accuracy))
    nats, tokens = (old.answers.nats, new.answers.nats), new.answers.tokens
    return [
        *findings,
        verdicts.likelihood("nats per answer token", *nats, tokens, thresholds.nats),
    ]


def _general_text(
    before: Measurement,
    after: Measurement,
    old: MeasuredArtifact,
    new: MeasuredArtifact,
    thresholds: Thresholds,
) -> Finding:
    windows = len(new.general_nats)
    if before.general != after.general or windows != len(old.general_nats):
        return Finding("general text", "unclear", "the baseline was measured on another text")
    tokens = [new.general_tokens / windows] * windows
    return verdicts.likelihood(
        "nats of general text", old.general_nats, new.general_nats, tokens, thresholds.perplexity,
        "windows of text",
    )  # fmt: skip


def _accuracy(before: Answers, after: Answers, threshold: float) -> Finding:
    """Where every row is answered as likely as before, nothing is left to chance."""
    if (before.correct, before.nats) == (after.correct, after.nats):
        return Finding("accuracy", "held", f"identical on {len(after.rows)} rows")
    old, new = (list(map(bool, answers.correct)) for answers in (before, after))
    return verdicts.accuracy(old, new, threshold)
