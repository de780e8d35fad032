"""Cache keys: hashes of everything that a stage's result depends on.

Code changes that change the weights must raise the stage's version.
"""

from dataclasses import asdict
from typing import Any

from edgeprune.pipeline import conversations, planner
from edgeprune.pipeline.job import Job
from edgeprune.planning.tensors import block_of, table
from edgeprune.support.files import sha256_json

_PRUNE_VERSION = 6
# Of what training does: what an older one has left is not gone on with.
TRAINING_VERSION = 11


def streams_key(job: Job) -> list[Any]:
    """Hash the inputs of both token streams and how they are processed."""
    from edgeprune.engine.device import compute_dtype, pick_device

    device, asked = pick_device(job.recipe.model.device), job.recipe.data
    return [
        job.checkpoint.sha256,
        job.data.general.calibration_hash,
        job.data.task.calibration_hash,
        [conversations.key(job), asked.chat_share],
        [asked.samples, asked.length, asked.seed],
        [str(device), str(compute_dtype(device))],
    ]


def prune_key(job: Job) -> str:
    """Hash the inputs of the pruned weights."""
    asked = job.recipe.pruning
    rounded = _grids(job)
    if job.recipe.training.from_rounded:
        rounded["to train"] = True
    elif job.recipe.training.of_weights:  # of trained weights, training does it
        rounded = {name: grid for name, grid in rounded.items() if block_of(name) is None}
    made_of = [
        _PRUNE_VERSION,
        streams_key(job),
        asdict(job.pruning),
        [asked.sparsity, asked.pattern, asked.allocation.model_dump()],
        rounded,
    ]
    masked = table(job.file.tensors).masked
    if masked:  # masks are chosen with codes
        made_of.append({name: asdict(grid) for name, grid in masked.items()})
    return sha256_json(made_of)


def training_key(job: Job) -> list[Any] | None:
    """Return what trained weights depend on besides the pruned ones; None without training."""
    training, data = job.recipe.training, job.recipe.data
    if not training.of_weights:
        return None
    grids = {} if training.rank else _grids(job)
    streams = [data.length, data.seed, data.answer_weight]
    asked = training.model_dump(exclude={"virtual_tokens"})  # they are trained afterwards
    return [TRAINING_VERSION, asked, streams, grids]


def sparse_key(job: Job) -> str:
    """Hash the inputs of pruned and trained weights."""
    return sha256_json([prune_key(job), training_key(job)])


def _grids(job: Job) -> dict[str, Any]:
    return {name: asdict(grid) for name, grid in planner.grids(job).items()}
