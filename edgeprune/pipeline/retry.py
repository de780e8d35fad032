"""Choose again where the measured build misses its goal, with what was learnt."""

from typing import Any

from edgeprune.manifest import Manifest
from edgeprune.pipeline.job import Job
from edgeprune.report.verdict import GENERAL_LIMIT, general_rise, met, verdict
from edgeprune.support.files import read_json, write_json

_RECORD = "goals.json"
_MOST = 3  # builds in all
# Of the bound on losses: where the task lost, and at least and at most otherwise.
_TASK_WORSE, _FIRMEST, _LEAST = 0.6, 0.85, 0.3
_MARGIN = 1.01  # of a speed that is aimed at again


def resumed(job: Job) -> Job:
    """Return the job as an earlier run of this build had changed it."""
    tried = _tried(job)
    return job.changed(tried[-1]["next"]) if tried else job


def again(job: Job, manifest: Manifest) -> Job | None:
    """Change the goal of a build that missed it, by what was measured.

    A file that came out larger than asked is not retried: sizes are known beforehand.

    Returns:
        The job to build next; None if the goal is met, or after three builds.
    """
    goal, tried = job.recipe.goal, _tried(job)
    known = goal.size or goal.memory or manifest.search  # and what was searched has been tried
    if not manifest.choice or known or met(manifest) or len(tried) + 1 >= _MOST:
        return None
    change = _faster(job, manifest) if goal.decode else _closer(job, manifest)
    before = {name: getattr(goal, name.removeprefix("goal.")) for name in change}
    tried.append({"was": before, "next": change})
    write_json(job.run.work / _RECORD, {"recipe": _first(job, tried), "tried": tried})
    (name, value), *_ = change.items()
    job.run.progress.note(
        f"Missed: {verdict(manifest)[1]} Building once more, with {name} {value:g}"
    )
    return job.changed(change)


def _faster(job: Job, manifest: Manifest) -> dict[str, Any]:
    goal = job.recipe.goal
    assert goal.decode
    short = goal.decode / manifest.results.artifacts["pruned"].decode.median
    return {"goal.reserve": round((1 + goal.reserve) * short * _MARGIN - 1, 4)}


def _closer(job: Job, manifest: Manifest) -> dict[str, Any]:
    """Tighten the bound on losses: as general text's rise asks, and firmly for the task."""
    rise = max(general_rise(manifest), 1e-9)
    share = min(_FIRMEST, max(_LEAST, 0.9 * GENERAL_LIMIT / rise))
    change = manifest.results.difference
    if change and change.nats_per_answer_token.value > 0:
        share = min(share, _TASK_WORSE)
    return {"goal.divergence": round(job.recipe.goal.divergence * share, 4)}


def _tried(job: Job) -> list[dict[str, Any]]:
    known = read_json(job.run.work / _RECORD) or {}
    tried: list[dict[str, Any]] = known.get("tried", [])
    same = not tried or known["recipe"] == _first(job, tried)
    return tried if same else []


def _first(job: Job, tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe as it was asked for, whatever has been changed by now."""
    return job.recipe.changed(tried[0]["was"]).model_dump(mode="json")
