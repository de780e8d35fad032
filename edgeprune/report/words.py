"""Figures as text, and the results table, the same in the report and on a terminal."""

from collections import Counter
from collections.abc import Iterator

from edgeprune.manifest import Manifest
from edgeprune.manifest.base import Interval
from edgeprune.manifest.results import CallShares, Measured, Speech, Speed, SpeedRatio


def size_text(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def interval_text(found: Interval | None, digits: int) -> str:
    """A figure with its interval in brackets; a dash where there is none."""
    if found is None:
        return "-"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f}-{found.high:.{digits}f})"


def ratio_text(found: SpeedRatio) -> str:
    """A multiple of the dense model's speed, with its interval in brackets."""
    if found.low is None or found.high is None:
        return f"{found.value:.2f}x (one process, so no interval)"
    return f"{found.value:.2f}x ({found.low:.2f}-{found.high:.2f})"


def table(manifest: Manifest) -> list[tuple[str, ...]]:
    """Rows of the results table: a measure, then one cell for each artifact."""
    artifacts = manifest.results.artifacts.values()

    def speed(found: Speed) -> str:
        return f"{found.median:.1f}" + ("" if found.sd is None else f" ± {found.sd:.1f}")

    measure = "exact calls" if all(one.calls for one in artifacts) else "accuracy"
    rows = [
        (measure, [interval_text(a.accuracy, 3) for a in artifacts]),
        ("nats per answer token", [interval_text(a.nats_per_answer_token, 2) for a in artifacts]),
        ("general perplexity", [interval_text(a.general_perplexity, 1) for a in artifacts]),
        ("prefill, tokens/s", [speed(a.prefill) for a in artifacts]),
        ("decode, tokens/s", [speed(a.decode) for a in artifacts]),
        ("file", [size_text(a.file_bytes) for a in artifacts]),
        ("peak memory", [size_text(a.peak_memory_bytes) for a in artifacts]),
        *_called(list(artifacts)),
        *_spoken(list(artifacts)),
    ]
    return [(name, *cells) for name, cells in rows]


def _called(artifacts: list[Measured]) -> Iterator[tuple[str, list[str]]]:
    """Rows on calls of functions, where the task asks for them."""
    if not all(one.calls for one in artifacts):
        return
    found = [one.calls for one in artifacts if one.calls]
    yield "called / right function / refused", [call_shares(one.free) for one in found]
    if all(one.grammar for one in found):
        grammars = [one.grammar for one in found if one.grammar]
        yield "exact calls, in a grammar", [interval_text(one.exact, 3) for one in grammars]
        yield (
            "called / right function / refused, in a grammar",
            [call_shares(one) for one in grammars],
        )
    yield (
        "a call, ms (tokens of its prompt)",
        [f"{one.milliseconds:.0f} ({one.prompt_tokens:.0f})" for one in found],
    )


def call_shares(found: CallShares) -> str:
    """Shares beside exact calls, without intervals."""
    parts = (found.called, found.function, found.refused)
    return " / ".join(f"{part.value:.0%}" if part else "-" for part in parts)


def _spoken(artifacts: list[Measured]) -> Iterator[tuple[str, list[str]]]:
    """Rows on how models speak, where that was measured."""
    streams = dict.fromkeys(stream for one in artifacts for stream in one.agreement)
    for stream in streams:
        found = [one.agreement.get(stream) for one in artifacts]
        yield (
            f"divergence on {stream}, nats",
            [f"{interval_text(a.nats, 2)}, 99 % {a.worst_nats:.1f}" if a else "-" for a in found],
        )
        yield (
            f"same top token on {stream}",
            [interval_text(a.same_top, 2) if a else "-" for a in found],
        )
    if any(one.speech for one in artifacts):
        yield "answers that loop / copy / end", [_answers(one.speech) for one in artifacts]


def _answers(said: Speech | None) -> str:
    return f"{said.loops:.0%} / {said.copies:.0%} / {said.ended:.0%}" if said else "-"


def made_how(manifest: Manifest) -> str:
    """How weights were pruned and stored, in a line."""
    pruning, kind = manifest.recipe.pruning, manifest.recipe.artifact.type
    if not manifest.choice:
        return (
            f"{pruning.method}, {pruning.fusion.mode}, {pruning.pattern}, "
            f"sparsity {pruning.sparsity:g}, {kind}"
        )
    chosen = ", ".join(f"{name} {share:.0%}" for name, share in shares(manifest).items())
    zeros = f"; {pruning.sparsity:.1%} pruned by {pruning.method}" if pruning.sparsity else ""
    return f"{chosen} of the weights{zeros}"


def shares(manifest: Manifest) -> dict[str, float]:
    """Share of the weights of all matrices in each storage, the most first."""
    sizes = Counter[str]()
    for row in manifest.plan:
        if len(row.shape) > 1:
            sizes[row.storage.name.lower()] += row.size
    return {name: size / sizes.total() for name, size in sizes.most_common()}
