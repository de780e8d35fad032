"""Find how far a model can be pruned, by bisection on held-out rows (arXiv 2505.18350)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.data.rows import Row
from edgeprune.manifest.manifest import Probe, SearchFacts
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.keys import prune_key
from edgeprune.pipeline.trial import trial
from edgeprune.recipe.units import share
from edgeprune.support import distributed
from edgeprune.support.errors import CheckFailed, UsageError

# Sparsities are tried on a grid of 2 %, up to 90 %.
_STEPS = 46
_STEP = 0.02


def settle(job: Job) -> tuple[Job, SearchFacts | None]:
    """Find the highest sparsity whose task metric stays within ``pruning.max_loss``.

    Accuracy may fall, or nats per answer token rise, by that share of the dense model's value: the
    worse end of the change's interval over the held-out rows, the same for both models, must be
    within it, with ``gates.confidence`` for each sparsity tried. The metric is taken to fall with
    sparsity, as bisection must. Methods that need moments alone are tried on statistics gathered
    once from the dense model; other methods, and the result, are pruned block by block as in a
    build.

    Args:
        job: the build; its own sparsity is ignored if ``max_loss`` is set. Without it, nothing is
            done.

    Returns:
        The job to build, calibrating on the rows that were not held out, and the record of the
        search.

    Raises:
        CheckFailed: not even the lowest sparsity is within the bound.
        UsageError: several processes were launched.
    """
    if not job.recipe.pruning.max_loss:
        return job, None
    if distributed.world()[1] > 1:
        raise UsageError(
            "--max-loss does not support several processes.", "Run it without a launcher."
        )
    rest, held_out = job.data.hold_out()
    job = replace(job, data=rest)
    found = _search(replace(job, run=replace(job.run, folder=job.run.work / "search")), held_out)
    return job.changed({"pruning.sparsity": found.sparsity}), found


def _search(job: Job, held_out: list[Row]) -> SearchFacts:
    asked, confidence = job.recipe.pruning, job.recipe.gates.confidence
    quick = {"measurement.perplexity_tokens": 512, "pruning.max_loss": None}
    once = None
    if job.pruning.sees_moments_alone and asked.allocation.kind == "uniform":
        once = job.run.folder / f"dense-{prune_key(job)[:16]}.safetensors"

    def measure(sparsity: float, dense_statistics: Path | None) -> dict[str, Any]:
        trains = job.recipe.training.enabled and sparsity > 0  # the bound is the dense model's
        tried = {**quick, "pruning.sparsity": sparsity, "training.enabled": trains}
        kind, _, alphabet = job.recipe.artifact.type.partition(":")
        # Anyone's dense model has all codes of the type.
        own = job.in_type(kind) if alphabet and not sparsity else job
        return trial(own.changed(tried), held_out, dense_statistics)

    dense = measure(0.0, None)
    by_accuracy = dense["accuracy"] is not None and not dense["near_chance"]
    metric = "accuracy" if by_accuracy else "nats_per_answer_token"
    start, loss = dense[metric]["value"], share(str(asked.max_loss))
    bound = start * (1 - loss) if by_accuracy else start * (1 + loss)

    def probe(step: int, dense_statistics: Path | None = once) -> Probe:
        sparsity = round(step * _STEP, 2)
        tried = measure(sparsity, dense_statistics)
        value = tried[metric]["value"]
        worst = _worst(metric, dense, tried, confidence)
        holds = worst >= bound if by_accuracy else worst <= bound
        found = Probe(sparsity=sparsity, value=value, worst=worst, holds=holds)
        job.run.progress.note(
            f"sparsity {sparsity:.0%}: {metric.replace('_', ' ')} {value:.3f}, at worst "
            f"{worst:.3f} ({'within' if found.holds else 'beyond'} {bound:.3f})"
        )
        return found

    best, probes = bisect(probe, _STEPS)
    while once and best:  # what the build will do is not quite what was tried: it must hold too
        probes.append(probe(best, None))
        if probes[-1].holds:
            break
        best -= 1
    if best == 0:
        raise CheckFailed(
            f"No sparsity of {_STEP:.0%} or more keeps {metric.replace('_', ' ')} within "
            f"{bound:.3f} (dense {start:.3f}) on {len(held_out)} held-out rows, with "
            f"{confidence:.0%} confidence.",
            "Allow a larger --max-loss, give more task rows, or lower the confidence: --set "
            "gates.confidence=0.8",
        )
    return SearchFacts(
        sparsity=round(best * _STEP, 2), metric=metric, dense=start, bound=bound,
        confidence=confidence, rows=len(held_out), probes=probes,
    )  # fmt: skip


def _worst(metric: str, dense: dict[str, Any], tried: dict[str, Any], confidence: float) -> float:
    """Compute the worse end of a metric's interval from both models' answers to the same rows."""
    from runtime_tests import paired

    both, start = paired.one_sided(confidence), dense[metric]["value"]
    old, new = dense["answers"], tried["answers"]
    if metric == "accuracy":
        return start + paired.accuracy_change(old["correct"], new["correct"], both).low / 100
    return start * (1 + paired.nats_rise(old["nats"], new["nats"], both).high)


def bisect(probe: Callable[[int], Probe], steps: int) -> tuple[int, list[Probe]]:
    """Find the largest step below ``steps`` that holds, 0 if none does, and all probes."""
    low, high = 0, steps
    probes = []
    while high - low > 1:
        middle = (low + high) // 2
        probes.append(probe(middle))
        low, high = (middle, high) if probes[-1].holds else (low, middle)
    return low, probes
