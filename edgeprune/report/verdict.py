"""Whether a build did what its recipe asks, in words."""

import math
from collections.abc import Iterator

from edgeprune.manifest import Manifest
from edgeprune.manifest.manifest import SearchFacts
from edgeprune.manifest.results import Difference, Measured
from edgeprune.recipe.units import byte_count
from edgeprune.report.words import ratio_text, size_text

# Of a build without a goal of its own: how much more general text may cost in bits a byte.
GENERAL_LIMIT = 0.10


def verdict(manifest: Manifest) -> tuple[str, str]:
    """A word and a sentence: whether the build held its recipe's gates, and met its goal."""
    if manifest.gates:
        return "failed", " ".join(manifest.gates)
    if manifest.choice:
        word = "predicted" if manifest.choice.device else "met" if met(manifest) else "missed"
        return word, _of_goal(manifest)
    gates = manifest.recipe.gates
    if gates.limits:
        return "held", f"Every gate held, each with {gates.confidence:.0%} one-sided confidence."
    return "measured", "The recipe sets no gates: results are reported, nothing was enforced."


def met(manifest: Manifest) -> bool:
    """Tell whether a build whose storages were chosen met its goal, by what was measured.

    A speed on another device can't be measured here: what is predicted for it stands.
    """
    goal, choice = manifest.recipe.goal, manifest.choice
    if goal.size:
        return shipped_bytes(manifest) <= byte_count(goal.size)
    if goal.memory:
        return in_memory(manifest) <= byte_count(goal.memory)
    if goal.decode:
        if choice and choice.device:
            return bool(choice.decode and choice.decode >= goal.decode)
        return manifest.results.artifacts["pruned"].decode.median >= goal.decode
    if manifest.search:
        return _within(manifest.search, manifest)
    change = manifest.results.difference
    return bool(change and change.nats_per_answer_token.value <= 0) and (
        general_rise(manifest) <= GENERAL_LIMIT
    )


def missed(manifest: Manifest) -> list[str]:
    """Say that a goal of the recipe's own was missed; the default one is only reported."""
    asked = manifest.recipe.goal.asked or manifest.search
    if not manifest.choice or not asked or met(manifest):
        return []
    return [f"The goal was missed. {_of_goal(manifest)}"]


def _within(search: SearchFacts, manifest: Manifest) -> bool:
    """Tell whether the evaluation rows, too, lose no more than was allowed."""
    artifacts, allowed = manifest.results.artifacts, search.bound / search.dense
    dense, own = (getattr(artifacts[name], search.metric).value for name in ("dense", "pruned"))
    return bool(own >= dense * allowed if search.metric == "accuracy" else own <= dense * allowed)


def general_rise(manifest: Manifest) -> float:
    """How much more general text costs than in the dense model, as a share of its bits."""
    dense, own = (
        manifest.results.artifacts[name].general_perplexity.value for name in ("dense", "pruned")
    )
    return math.log(own) / math.log(dense) - 1


def shipped_bytes(manifest: Manifest) -> int:
    """Size of the file to ship: the packed one, where edgeprune's runtime may open it."""
    packed = manifest.packed
    return packed.packed_bytes if packed else manifest.results.artifacts["pruned"].file_bytes


def in_memory(manifest: Manifest) -> int:
    """Bytes of weights in memory: as planned, which the runtime's own count is held to."""
    return round(sum((row.packed_bits or 0) * row.size / 8 for row in manifest.plan))


def headline(manifest: Manifest) -> list[str]:
    """What a build whose storages were chosen gives, its best-known rivals beside it."""
    if not manifest.choice or not manifest.results.difference:
        return []
    return list(_headline(manifest))


def _headline(manifest: Manifest) -> Iterator[str]:
    results = manifest.results
    assert results.difference
    for name, change in {"dense": results.difference, **results.rivals}.items():
        yield _beside(name, results.artifacts[name], change, shipped_bytes(manifest), manifest)
    yield f"General text: {general_rise(manifest):+.1%} bits per byte beside the dense model."


def _of_goal(manifest: Manifest) -> str:
    goal, choice = manifest.recipe.goal, manifest.choice
    assert choice
    if goal.memory:
        return f"{choice.goal}: weights take {size_text(in_memory(manifest))}."
    size = shipped_bytes(manifest)
    file = f"the file takes {size_text(size)}, predicted {size_text(choice.bytes)}"
    if goal.size:
        return f"{choice.goal}: {file}."
    if search := manifest.search:
        return (
            f"{choice.goal} of {search.metric.replace('_', ' ')}, with {search.confidence:.0%} "
            f"confidence on {search.rows} rows held out: {file}."
        )
    if goal.decode:
        measured = manifest.results.artifacts["pruned"].decode.median
        if choice.device:
            return (
                f"{choice.goal}: {choice.decode:.0f} predicted on {choice.device}, where it has "
                f"not been measured; {measured:.0f} on this machine; {file}."
            )
        return f"{choice.goal}: {measured:.0f} measured, {choice.decode:.0f} predicted; {file}."
    return (
        f"No worse than the dense model at {manifest.data.task.name}, and general text within "
        f"{GENERAL_LIMIT:.0%} in bits per byte, was the goal; {file}."
    )


def _beside(name: str, rival: Measured, change: Difference, size: int, manifest: Manifest) -> str:
    own = manifest.results.artifacts["pruned"]
    nats = change.nats_per_answer_token
    better = "better" if nats.high < 0 else "worse" if nats.low > 0 else "not to be told apart"
    return (
        f"Beside {name} ({size_text(rival.file_bytes)}): {size / rival.file_bytes:.0%} of its "
        f"size, decodes at {ratio_text(change.decode_speed)}, {better} at "
        f"{manifest.data.task.name}: {rival.nats_per_answer_token.value:.3f} to "
        f"{own.nats_per_answer_token.value:.3f} nats per answer token."
    )
