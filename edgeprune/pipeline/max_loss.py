"""Find how far a model can be compressed, by bisection on held-out rows (arXiv 2505.18350)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.data.rows import Row
from edgeprune.manifest.manifest import Probe, SearchFacts
from edgeprune.pipeline import choose
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.keys import prune_key
from edgeprune.pipeline.trial import trial
from edgeprune.recipe.units import share
from edgeprune.support import distributed
from edgeprune.support.errors import CheckFailed, UsageError

# Sparsities are tried on a grid of 2 %, up to 90 %; bounds on losses by a quarter, up to 1.5 nats.
_STEPS, _STEP = 46, 0.02
_BOUNDS, _LARGEST, _FINER = 18, 1.5, 1.25

# Puts a job at a step of what is searched, and says where that is.
At = Callable[[Job, int], tuple[Job, dict[str, Any]]]


def settle(job: Job) -> tuple[Job, SearchFacts | None]:
    """Find the smallest file whose task metric stays within ``pruning.max_loss``.

    Accuracy may fall, or nats per answer token rise, by that share of the dense model's value: the
    worse end of the change's interval over the held-out rows, the same for both models, must be
    within it, with ``gates.confidence`` for each file tried. Where storages are chosen, they are
    chosen under one bound on their losses after another; where a type or zeros are set, the highest
    sparsity is found. The metric is taken to get worse as files get smaller, as bisection must.
    Methods that need moments alone are tried on statistics gathered once from the dense model;
    other methods, and the result, are pruned block by block as in a build.

    Args:
        job: the build; its own sparsity is ignored if ``max_loss`` is set. Without it, nothing is
            done.

    Returns:
        The job to build, calibrating on the rows that were not held out, and the record of the
        search.

    Raises:
        CheckFailed: not even the largest file is within the bound.
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
    if found.divergence:
        return job.changed({"goal.divergence": found.divergence}), found
    return job.changed({"pruning.sparsity": found.sparsity}), found


def _search(job: Job, held_out: list[Row]) -> SearchFacts:
    asked, confidence = job.recipe.pruning, job.recipe.gates.confidence
    at, steps = (_chosen, _BOUNDS) if job.recipe.goal.choose else (_pruned, _STEPS)
    quick = {"measurement.perplexity_tokens": 512, "pruning.max_loss": None}
    once = None
    if at is _pruned and job.pruning.sees_moments_alone and asked.allocation.kind == "uniform":
        once = job.run.folder / f"dense-{prune_key(job)[:16]}.safetensors"
    dense = trial(_dense(job).changed(quick), held_out)
    by_accuracy = dense["accuracy"] is not None and not dense["near_chance"]
    metric = "accuracy" if by_accuracy else "nats_per_answer_token"
    start, loss = dense[metric]["value"], share(str(asked.max_loss))
    bound = start * (1 - loss) if by_accuracy else start * (1 + loss)

    def probe(step: int, dense_statistics: Path | None = once) -> Probe:
        tried, where = at(job, step)
        result = trial(tried.changed(quick), held_out, dense_statistics)
        value = result[metric]["value"]
        worst = _worst(metric, dense, result, confidence)
        holds = worst >= bound if by_accuracy else worst <= bound
        found = Probe(**where, value=value, worst=worst, holds=holds)
        job.run.progress.note(
            f"{_words(found)}: {metric.replace('_', ' ')} {value:.3f}, at worst "
            f"{worst:.3f} ({'within' if found.holds else 'beyond'} {bound:.3f})"
        )
        return found

    best, probes = bisect(probe, steps)
    while once and best:  # what the build will do is not quite what was tried: it must hold too
        probes.append(probe(best, None))
        if probes[-1].holds:
            break
        best -= 1
    if best == 0:
        least = "file" if at is _chosen else f"sparsity of {_STEP:.0%} or more"
        raise CheckFailed(
            f"No {least} keeps {metric.replace('_', ' ')} within "
            f"{bound:.3f} (dense {start:.3f}) on {len(held_out)} held-out rows, with "
            f"{confidence:.0%} confidence.",
            "Allow a larger --max-loss, give more task rows, or lower the confidence: --set "
            "gates.confidence=0.8",
        )
    where = at(job, best)[1]
    return SearchFacts(
        sparsity=where["sparsity"], divergence=where.get("divergence"), metric=metric, dense=start,
        bound=bound, confidence=confidence, rows=len(held_out), probes=probes,
    )  # fmt: skip


def _dense(job: Job) -> Job:
    """The dense model as anyone has it: with all codes of its type, untrained."""
    kind = job.recipe.artifact.type.partition(":")[0]
    if job.recipe.goal.choose and "type" not in job.recipe.goal.keep:
        kind = job.exporter.default_type
    plain = {"pruning.sparsity": 0.0, "training.enabled": False, "goal.choose": False}
    return job.changed(plain).in_type(kind)


def _pruned(job: Job, step: int) -> tuple[Job, dict[str, Any]]:
    sparsity = round(step * _STEP, 2)
    return job.changed({"pruning.sparsity": sparsity}), {"sparsity": sparsity}


def _chosen(job: Job, step: int) -> tuple[Job, dict[str, Any]]:
    divergence = round(_LARGEST * _FINER ** (step + 1 - _BOUNDS), 4)
    chosen, facts = choose.settle(job.changed({"goal.divergence": divergence}))
    assert facts
    sparsity = chosen.recipe.pruning.sparsity
    return chosen, {"sparsity": sparsity, "divergence": divergence, "bytes": facts.bytes}


def _words(probe: Probe) -> str:
    return f"{probe.bytes / 1e6:.1f} MB" if probe.bytes else f"sparsity {probe.sparsity:.0%}"


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
