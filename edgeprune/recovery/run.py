"""Recovery, one stage after another: reconstruct, distill, finetune."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from edgeprune.data.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.planning.grid import Grid
from edgeprune.recovery import reconstruct, train
from edgeprune.recovery.batches import is_held_out
from edgeprune.recovery.settings import RECONSTRUCTION_SEQUENCES, Reconstruction, Training
from edgeprune.support import distributed
from edgeprune.support.progress import Progress

# Settings of each way, by its name, in the order in which they run.
Ways = Mapping[str, Training | Reconstruction]


def finished(pruned: PrunedCheckpoint, ways: Ways, folder: Path) -> bool:
    """Tell whether every stage has its result in ``folder``; `recover` then only reads them."""
    return all(
        (reconstruct if isinstance(how, Reconstruction) else train).finished(pruned, folder / way)
        for way, how in ways.items()
    )


def recover(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    ways: Ways,
    folder: Path,
    progress: Progress,
    device: str,
    grids: Mapping[str, Grid],
) -> tuple[PrunedCheckpoint, dict[str, dict[str, Any]]]:
    """Train the kept weights in every way, each on the result of the one before.

    Args:
        pruned: the pruned model.
        streams: ``general`` and ``task`` tokens; not needed if every way is `finished`.
        ways: settings of each way of training, in order.
        folder: keeps the runs; a killed run resumes. It must belong to this model, these
            streams and ``ways`` alone.
        progress: receives progress by steps and blocks.
        device: ``auto``, ``cpu`` or ``cuda``.
        grids: the file's grids by tensor names in the checkpoint. Only the last way
            trains on them, since later training would move weights off the grid.

    Returns:
        The trained model, and facts about each way for the manifest.

    Raises:
        CheckFailed: a loss is NaN or infinite.
        InputError: there is no answer token to train or to evaluate on.
    """
    facts: dict[str, dict[str, Any]] = {}
    *_, last = ways
    for way, how in ways.items():
        place = folder / way
        if isinstance(how, Reconstruction):
            pruned, facts[way] = _reconstruct(pruned, streams, how, place, progress, device)
        else:
            final = grids if way == last else {}
            found = train.train(pruned, streams, how, place, progress, device, final)
            pruned, facts[way] = found.checkpoint, _facts(found)
    return pruned, facts


def _facts(found: train.TrainResult) -> dict[str, Any]:
    return {
        "steps": found.steps,
        "planned_steps": found.planned,
        "rounded": found.rounded,
        "task_share": found.task_share,
        "curve": found.curve,
    }


def _reconstruct(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    how: Reconstruction,
    folder: Path,
    progress: Progress,
    device: str,
) -> tuple[PrunedCheckpoint, dict[str, Any]]:
    """Reconstruct blocks in the first process alone; the others read its result."""
    some = {name: _trained_on(streams[name]) for name in ("general", "task")}
    if distributed.world()[0]:
        distributed.wait()
    found = reconstruct.reconstruct(pruned, some, how, folder, progress, device)
    if distributed.world()[0] == 0:
        distributed.wait()
    before, after = (mean(pair[side] for pair in found.errors.values()) for side in (0, 1))
    return found.checkpoint, {"before": before, "after": after, "submodules": len(found.errors)}


def _trained_on(stream: Stream) -> Stream:
    """Choose the first sequences that are not held out."""
    kept = ~is_held_out(len(stream.tokens)) if len(stream.tokens) > 1 else slice(None)
    return stream.part(kept).part(slice(RECONSTRUCTION_SEQUENCES))
