"""What a build chooses from: the storages that each tensor may have, and what each would lose."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.pipeline.job import Job, wanted
from edgeprune.pipeline.keys import streams_key
from edgeprune.pipeline.streams import streams as build_streams
from edgeprune.planning.grid import FILE_BLOCK
from edgeprune.planning.stored import Stored
from edgeprune.planning.tensors import TensorPlan
from edgeprune.support.files import kept, sha256_json

if TYPE_CHECKING:
    from edgeprune.engine.sensitivity.storages import Losses

_VERSION = 9  # of what is measured
# Sequences of each stream: each embedding runs on so many, gradients on so many, blocks on so many.
_OF_EMBEDDINGS, _RUN_WHOLE, _RUN_BLOCKS = 2, 3, 4

# By tensor and storage: the tensor as it would stand in the file.
Candidates = Mapping[str, Mapping[str, TensorPlan]]


def ways(job: Job) -> dict[str, Stored]:
    """List the ways to store a block's matrix, by name: those that the recipe leaves open."""
    asked, goal = job.recipe.pruning, job.recipe.goal
    known = job.exporter.choices[goal.runtime]
    if "type" in goal.keep:
        kind = job.recipe.artifact.type
        known = tuple(one for one in known if one.type == kind) or (Stored(kind),)
    if "zeros" in goal.keep:
        types = dict.fromkeys(one.type for one in known if asked.sparsity or not one.sparsity)
        known = tuple(Stored(kind, asked.sparsity, job.pattern) for kind in types)
    return {one.name: one for one in known}


def candidates(job: Job) -> Candidates:
    """List the storages that each matrix may have; what the recipe sets leaves one."""
    shapes = {row.name: row.shape for row in job.file.tensors}
    asked = job.recipe.artifact
    set_by_user = {"embedding": asked.embedding_type, "head": asked.head_type}
    of_blocks = ways(job)
    found: dict[str, dict[str, TensorPlan]] = defaultdict(dict)
    for way in {**of_blocks, **_of_vocabulary(job)}.values():
        ask = replace(wanted(job.recipe), type=way.type, embedding=way.type, head=way.type)
        for row in job.exporter.estimate(shapes, ask):
            grid = row.storage.grid
            if grid is None:
                continue
            if row.block is None:
                # Of embeddings, whose candidates are run one by one, only scales of the plain type.
                open_to = set_by_user.get(row.role, "auto") in ("auto", way.type)
                fits = open_to and not way.sparsity and grid.block == FILE_BLOCK
            else:
                fits = way.name in of_blocks and way.pattern.fits(row.shape[1])
            if fits:
                found[row.name][way.name] = way.of(row)
    return found


def _of_vocabulary(job: Job) -> dict[str, Stored]:
    """List the ways to store embedding and head: without zeros."""
    known = job.exporter.choices[job.recipe.goal.runtime]
    return {one.name: one for one in known if not one.sparsity}


def losses_of(job: Job, rows: Candidates) -> "Losses":
    """Estimate what each candidate loses; kept for all builds of this model and these streams."""
    shares = job.pruning.fusion.shares
    spelt = {
        name: {way: [str(row.storage.grid), row.pattern.name, row.zeros] for way, row in of.items()}
        for name, of in rows.items()
    }
    weighed = [job.recipe.data.answer_weight, job.pruning.sink_positions,
               job.pruning.high_perplexity_weight]  # fmt: skip
    lengths = [_OF_EMBEDDINGS, _RUN_WHOLE, _RUN_BLOCKS]
    key = sha256_json([_VERSION, streams_key(job), shares, spelt, lengths, weighed])
    found: Losses = kept("losses", key, lambda: _measured(job, rows, shares))
    return found


def _measured(job: Job, rows: Candidates, shares: Mapping[str, float]) -> "Losses":
    from edgeprune.engine.device import pick_device
    from edgeprune.engine.runner import BlockRunner
    from edgeprune.engine.sensitivity.curvature import output_curvature
    from edgeprune.engine.sensitivity.model import matrices_by_block
    from edgeprune.engine.sensitivity.storages import storage_losses
    from edgeprune.engine.sensitivity.vocabulary import vocabulary_losses
    from edgeprune.engine.token_weights import stream_weights
    from edgeprune.models.loading import load_model

    progress = job.run.progress
    packed = build_streams(job, _RUN_BLOCKS)
    streams = {name: stream for name, stream in packed.items() if name in shares}
    few = {name: stream.part(slice(_RUN_WHOLE)) for name, stream in streams.items()}
    stored = frozenset(job.checkpoint.weights().names())
    runner = BlockRunner(load_model(job.checkpoint), streams, pick_device(job.recipe.model.device))
    blocks = matrices_by_block(runner, stored)
    curvature = output_curvature(runner, blocks, few, progress)
    weights = stream_weights(runner, job.pruning)
    inside = {name for of_block in blocks for name in of_block}
    beside = {
        name: {way: row.storage.grid for way, row in of.items() if row.storage.grid}
        for name, of in rows.items()
        if name not in inside
    }
    fewer = {name: stream.part(slice(_OF_EMBEDDINGS)) for name, stream in streams.items()}
    return vocabulary_losses(runner, fewer, stored, beside, shares, progress) | storage_losses(
        runner, blocks, rows, shares, weights, curvature, progress
    )
