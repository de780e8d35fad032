"""Two measurements beside each other."""

from collections.abc import Iterator, Sequence

import numpy as np

from edgeprune.manifest.results import Answers
from edgeprune.regression import programs, verdicts
from edgeprune.regression.measurement import MeasuredArtifact, Measurement
from edgeprune.regression.thresholds import TIMES, Thresholds
from edgeprune.regression.verdicts import ERROR, Evidence, Finding


def beside(kind: str) -> str:
    """Name the measure of a speed in turns with the baseline's artifact."""
    return f"{kind}, x baseline"


def compare(
    before: Measurement, after: Measurement, thresholds: Thresholds, error: float = ERROR
) -> list[Finding]:
    """Hold a build's measurement against a baseline's.

    Args:
        before: the baseline.
        after: the build.
        thresholds: what may be lost.
        error: of this look at speeds, see `verdicts.spent`.
    """
    name = after.own
    if name not in before.artifacts:
        said = "the build is pruned and the baseline is not, so they can't be compared"
        return [Finding("build", "unclear", said)]
    old, new = before.artifacts[name], after.artifacts[name]
    return verdicts.judge([
        *_speeds(before, after, name, thresholds, error),
        *programs.compare(before, after, thresholds, error),
        *_answers(before, after, old, new, thresholds),
        _general_text(before, after, old, new, thresholds),
        *_chat(old, new, thresholds),
        verdicts.size("file", old.file_bytes, new.file_bytes, thresholds.size),
        verdicts.size(
            "peak memory", old.peak_memory_bytes, new.peak_memory_bytes, thresholds.memory
        ),
    ])  # fmt: skip


def _speeds(
    before: Measurement, after: Measurement, name: str, thresholds: Thresholds, error: float
) -> Iterator[Evidence | Finding]:
    if before.lengths != after.lengths:
        said = "the baseline was timed with another length of prompt or answer"
        yield Finding("speed", "unclear", said)
        return
    same_machine = before.machine == after.machine
    if not after.beside:
        said = (
            "the baseline's artifact is missing or has changed, so it could not be timed beside "
            f"the build: a change of less than {thresholds.drift:.0%} can't be detected"
        )
        yield Finding("x baseline", "unclear" if same_machine else "held", said)
    old, new = before.artifacts[name], after.artifacts[name]
    for kind, times in TIMES.items():
        if after.beside:
            yield from _beside(kind, name, after, times * thresholds.speed, error)
        if name == "pruned":
            limit = times * thresholds.drift
            then, now = (_x_dense(one, kind) for one in (before, after))
            yield verdicts.separate_speed(f"{kind}, x dense", then, now, limit, error)
        if same_machine:
            limit = times * thresholds.total_speed
            yield verdicts.separate_speed(kind, old.of(kind), new.of(kind), limit, error)
    if not same_machine:
        said = (
            "the baseline was measured on another machine, so only speeds relative to the dense "
            "model are compared"
        )
        yield Finding("tokens/s", "held" if name == "pruned" else "unclear", said)


def _beside(
    kind: str, name: str, after: Measurement, threshold: float, error: float
) -> Iterator[Evidence | Finding]:
    """Compare with the baseline's artifact, whose two processes show what can be told at all."""
    new, (one, again) = after.artifacts[name].of(kind), (timed.of(kind) for timed in after.beside)
    noise = verdicts.same_file(f"{kind}, same file", again / one, threshold)
    yield noise
    ratios = new / np.sqrt(one * again)
    found = verdicts.paired_speed(beside(kind), ratios, threshold, error, after.seconds)
    if noise.verdict == "held":
        yield found
    else:
        said = f"{found.said}, but so do processes of the same file"
        yield Finding(found.measure, "unclear", said, in_turns=True)


def _x_dense(measured: Measurement, kind: str) -> np.ndarray:
    """Speed relative to the dense baseline, process by process: a slow minute hits both."""
    pruned, dense = (measured.artifacts[name].of(kind) for name in ("pruned", "dense"))
    return pruned[: len(dense)] / dense  # the dense model takes part in the first blocks alone


def _answers(
    before: Measurement,
    after: Measurement,
    old: MeasuredArtifact,
    new: MeasuredArtifact,
    thresholds: Thresholds,
) -> Iterator[Evidence | Finding]:
    if before.task != after.task or new.answers.rows != old.answers.rows:
        yield Finding("answers", "unclear", "the baseline was measured on other questions")
        return
    if new.answers.correct[0] is not None:
        yield _accuracy(old.answers, new.answers, thresholds.accuracy)
    yield _likelihood(
        "nats per answer token", (old.answers.nats, new.answers.nats), new.answers.tokens,
        thresholds.nats, "rows",
    )  # fmt: skip


def _general_text(
    before: Measurement,
    after: Measurement,
    old: MeasuredArtifact,
    new: MeasuredArtifact,
    thresholds: Thresholds,
) -> Evidence | Finding:
    windows = len(new.general_nats)
    if before.general != after.general or windows != len(old.general_nats):
        return Finding("general text", "unclear", "the baseline was measured on another text")
    tokens = [new.general_tokens / windows] * windows
    return _likelihood(
        "nats of general text", (old.general_nats, new.general_nats), tokens,
        thresholds.perplexity, "windows of text",
    )  # fmt: skip


def _chat(
    old: MeasuredArtifact, new: MeasuredArtifact, thresholds: Thresholds
) -> Iterator[Evidence | Finding]:
    """Compare divergences on held-out conversations, where both builds had them."""
    if not old.chat_nats or not new.chat_nats:
        return
    if old.chat_places != new.chat_places:
        yield Finding("chat", "unclear", "the baseline was measured on other conversations")
        return
    yield _likelihood(
        "divergence on chat", (old.chat_nats, new.chat_nats), new.chat_places, thresholds.chat,
        "conversations",
    )  # fmt: skip


def _likelihood(
    measure: str, nats: tuple[list[float], list[float]], tokens: Sequence[float], limit: float,
    of: str,
) -> Evidence | Finding:  # fmt: skip
    if nats[0] == nats[1]:
        return Finding(measure, "held", f"identical on {len(tokens)} {of}", 0.0)
    return verdicts.likelihood(measure, *nats, tokens, limit, of)


def _accuracy(before: Answers, after: Answers, threshold: float) -> Evidence | Finding:
    """Where every row is answered as likely as before, nothing is left to chance."""
    if (before.correct, before.nats) == (after.correct, after.nats):
        return Finding("accuracy", "held", f"identical on {len(after.rows)} rows", 0.0)
    old, new = (list(map(bool, answers.correct)) for answers in (before, after))
    return verdicts.accuracy(old, new, threshold)
