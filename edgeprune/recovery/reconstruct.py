"""Reconstruction: each attention and each MLP learns to reproduce the dense one's output.

Windows with a non-linearity inside are reconstructed one after the other (arXiv 2510.14444): inputs
come through the blocks already reconstructed, targets from the dense model's own stream. One block
of each model and four sets of hidden states are all that is held; no gradient crosses a block.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.engine.device import pick_device
from edgeprune.engine.store import BlockStore, PrunedTensors
from edgeprune.formats.weights import is_whole
from edgeprune.models.loading import load_model
from edgeprune.models.stored import stored_tensors
from edgeprune.recovery.settings import Reconstruction
from edgeprune.recovery.student import open_student
from edgeprune.recovery.submodules import BATCH, Block, BlockRunners
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Progress

_LEAST_STEPS = 4


@dataclass(frozen=True)
class ReconstructResult:
    """The result of a reconstruction.

    Attributes:
        checkpoint: checkpoint with the reconstructed weights.
        errors: relative squared error of each submodule's output before and after, mean over
            tokens.
    """

    checkpoint: PrunedCheckpoint
    errors: dict[str, tuple[float, float]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> ReconstructResult | None:
    """Read the result in ``folder``, if the run finished."""
    done = read_json(folder / "reconstructed.json")
    if done is None:
        return None
    files = [BlockStore(folder).block_file(index) for index in range(done["blocks"])]
    if not all(map(is_whole, files)):
        return None
    errors = {name: tuple(pair) for name, pair in done["errors"].items()}
    return ReconstructResult(replace(pruned, files=[*pruned.files, *files]), errors)


def reconstruct(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    settings: Reconstruction,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> ReconstructResult:
    """Reconstruct every submodule under its mask, from the first block to the last.

    Args:
        pruned: the pruned model.
        streams: ``general`` and ``task`` tokens, of equal length; every sequence counts the same.
        settings: settings of the reconstruction.
        folder: keeps finished blocks; a killed run resumes after the last one. It must
            belong to this model, these streams and ``settings`` alone.
        progress: receives progress by blocks.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        CheckFailed: a submodule's outputs are NaN or infinite.
    """
    begun, store = time.perf_counter(), BlockStore(folder)
    if result := finished(pruned, folder):
        _clean_up(folder, store)
        return result
    models = {"dense": load_model(pruned.base), "sparse": open_student(pruned, torch.float32)}
    place = pick_device(device)
    plan = read_json(folder / "plan.json") or _plan(models, streams, settings, place, begun)
    both = BlockRunners(models, _first(streams, plan["sequences"]), place)
    start, hidden = _resume(both, store)
    stored = frozenset(pruned.base.weights().names())
    with progress.stage("reconstruct blocks", both.blocks) as stage:
        stage.advance(start)
        for index in range(start, both.blocks):
            one = Block(both, index, hidden)
            plan["errors"] |= one.reconstruct(plan["steps"], settings.learning_rate)
            write_json(folder / "plan.json", plan)
            tensors = {both.prefix(index) + n: p.detach().cpu()
                       for n, p in one.block.named_parameters()}  # fmt: skip
            named = stored_tensors(models["sparse"], tensors, stored)
            store.save_block(index, PrunedTensors(named, [], {}))
            stage.advance()
            if index + 1 == both.blocks:  # nothing reads what the last one makes
                break
            following = store.new_hidden(index + 1, both.shapes)
            both.advance(index, {"dense": one.teacher, "sparse": one.block}, hidden, following)
            store.keep_hidden(index + 1, both.shapes)
            hidden = following
    write_json(folder / "reconstructed.json", {"blocks": both.blocks, "errors": plan["errors"]})
    _clean_up(folder, store)
    found = finished(pruned, folder)
    assert found
    return found


def _resume(both: BlockRunners, store: BlockStore) -> tuple[int, dict[str, Tensor]]:
    """Find the first unfinished block and the hidden states before it."""
    start, hidden = store.resume(both.shapes)
    if not hidden:
        hidden = store.new_hidden(0, both.shapes)
        both.embed(hidden)
        store.keep_hidden(0, both.shapes)
    return start, hidden


def _clean_up(folder: Path, store: BlockStore) -> None:
    """Remove files that only an unfinished run needs."""
    store.drop_hidden()
    (folder / "plan.json").unlink(missing_ok=True)


def _plan(
    models: dict[str, Any],
    streams: dict[str, Stream],
    settings: Reconstruction,
    device: torch.device,
    begun: float,
) -> dict[str, Any]:
    """Plan a run: steps of each submodule, number of sequences, and an empty record of errors.

    All sequences are used, unless reading them would take more than half of the remaining budget,
    which started at ``begun``, seconds.
    """
    count = sum(len(stream.tokens) for stream in streams.values())
    if settings.steps:
        return {"steps": settings.steps, "sequences": count, "errors": {}}
    both = BlockRunners(models, _first(streams, BATCH), device)
    hidden = {key: torch.empty(shape.shape, dtype=shape.dtype)
              for key, shape in both.shapes.items()}  # fmt: skip
    both.embed(hidden)
    step, reading = Block(both, 0, hidden).timed()
    left = (settings.seconds - (time.perf_counter() - begun)) / both.blocks
    sequences = max(BATCH, min(count, int(BATCH * left / 2 / reading)))
    steps = max(_LEAST_STEPS, int((left - reading * sequences / BATCH) / step))
    return {"steps": steps, "sequences": sequences, "errors": {}}


def _first(streams: dict[str, Stream], count: int) -> dict[str, Stream]:
    """Choose so many sequences, in the streams' proportions, rounded up."""
    total = sum(len(stream.tokens) for stream in streams.values())
    return {
        name: stream.part(slice(-(-len(stream.tokens) * count // total)))
        for name, stream in streams.items()
    }
