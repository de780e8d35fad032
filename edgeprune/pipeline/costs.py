"""What storages cost in time: on this machine, or as a file of another device has it."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from edgeprune.manifest.base import Facts
from edgeprune.pipeline import latency
from edgeprune.pipeline.candidates import Candidates, ways
from edgeprune.pipeline.job import Job
from edgeprune.support import environment
from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.files import kept, write_json

_SCHEMA = 1
_HINT = "Write it on the device: edgeprune plan --task T --decode 1 --save-costs FILE"

Seconds = Mapping[str, Mapping[str, float]]


class DeviceCosts(Facts):
    """A model's costs on a device.

    Attributes:
        schema_number: ``schema`` in the file.
        device: the device, in words.
        target: kind of file that was timed.
        runtime: what was reckoned with, ``edgeprune`` or ``stock``.
        sizes: weights of each tensor, by which a file of another model is told.
        seconds: a token's time in each storage of each tensor.
    """

    schema_number: int = Field(alias="schema")
    device: str
    target: str
    runtime: str
    sizes: dict[str, int]
    seconds: dict[str, dict[str, float]]


def seconds_a_token(job: Job, rows: Candidates) -> Seconds:
    """Find each tensor's share of a token's time in each storage; what is timed is kept.

    Raises:
        InputError: the recipe's file of costs can't be read, or is of another model.
    """
    if job.recipe.goal.costs:
        return read(job, rows).seconds
    found: Seconds = kept(
        "times",
        latency.kept_under(job, rows),
        lambda: latency.seconds_a_token(job, rows, ways(job)),
    )
    return found


def read(job: Job, rows: Candidates) -> DeviceCosts:
    """Read the recipe's file of another device's costs, and hold it against the model."""
    path, recipe = Path(job.recipe.goal.costs or ""), job.recipe
    if not path.is_file():
        raise InputError(f"goal.costs: there is no file {path}.", _HINT)
    found = DeviceCosts.read_file(path, _SCHEMA, _HINT)
    asked = {"target": recipe.artifact.target, "runtime": recipe.goal.runtime}
    for name, value in asked.items():
        if getattr(found, name) != value:
            raise UsageError(
                f"{path} has costs for {name} {getattr(found, name)}; this build's is {value}.",
                f"Set --{name} {getattr(found, name)}, or write the file anew with --{name} "
                f"{value}.",
            )
    for name, size in _sizes(rows).items():
        if found.sizes.get(name) != size:
            raise UsageError(
                f"{path} has costs of another model: {name} has {size:,} weights here, and "
                f"{found.sizes.get(name, 0):,} there.",
                _HINT,
            )
        if missing := set(rows[name]) - set(found.seconds[name]):
            raise UsageError(
                f"{path} has no cost of {sorted(missing)[0]} for {name}: another version of "
                "edgeprune wrote it, or for a recipe that sets more.",
                _HINT,
            )
    return found


def save(job: Job, rows: Candidates, path: Path) -> None:
    """Write this machine's costs for builds on other machines."""
    machine = environment.describe()
    costs = DeviceCosts(
        schema_number=_SCHEMA,
        device=f"{machine['processor']}, {machine['cores']} cores",
        target=job.recipe.artifact.target,
        runtime=job.recipe.goal.runtime,
        sizes=_sizes(rows),
        seconds={name: dict(of) for name, of in seconds_a_token(job, rows).items()},
    )
    write_json(path, costs.to_json())


def _sizes(rows: Candidates) -> dict[str, int]:
    return {name: next(iter(of.values())).size for name, of in rows.items()}
