"""The sequential loop: gather statistics of a block, prune it, push both streams through it."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine.device import pick_device
from edgeprune.engine.pruner import BlockPruner
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.store import BlockStore, PrunedTensors, TensorRecord
from edgeprune.formats.weights import Weights
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_model
from edgeprune.models.stored import stored_tensors
from edgeprune.planning.tensors import ModelPlan, block_of
from edgeprune.pruning.matrix import Pruning
from edgeprune.support import distributed
from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Progress, Stage


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A base checkpoint and the pruned tensors that replace its own.

    Attributes:
        base: the checkpoint that was pruned.
        files: safetensors files with the pruned tensors.
        records: one record for each pruned tensor.
        calibration: safetensors files with calibration results for the export:
            ``<tensor>.importance``, (in,), mean squares of the input, and ``<tensor>.scales``,
            (out, blocks), where weights were rounded to a grid.
    """

    base: Checkpoint
    files: list[Path]
    records: list[TensorRecord]
    calibration: list[Path]

    def weights(self) -> Weights:
        """Return all weights, with pruned tensors instead of the base's."""
        return Weights([*self.base.weight_files, *self.files])


def prune(
    checkpoint: Checkpoint,
    streams: dict[str, Stream],
    pruning: Pruning,
    plan: ModelPlan,
    folder: Path,
    progress: Progress,
    device: str = "auto",
    dense_statistics: Path | None = None,
    to_train: bool = False,
) -> PrunedCheckpoint:
    """Prune a model, one block at a time.

    In a `torch.distributed` process group every process takes its share of the sequences and
    returns the same result; the folder must be one that all of them see.

    Args:
        checkpoint: the dense model.
        streams: ``general`` and ``task`` tokens.
        pruning: how to prune.
        plan: how many weights of each matrix are pruned, under which pattern, and the grid of the
            kept ones; later blocks see rounded weights. Rounding excludes ``dense_statistics``.
        folder: keeps finished blocks; a killed run resumes after the last one, so the folder must
            belong to this model, these streams, ``pruning`` and ``plan`` alone.
        progress: receives progress by blocks.
        device: ``auto``, ``cpu`` or ``cuda``.
        dense_statistics: a file for the dense model's statistics, gathered if it is not there. With
            it, every block is pruned on its inputs in the dense model, a little worse, and the next
            sparsity needs no pass over the streams. Only for methods that need moments alone
            (`Pruning.sees_moments_alone`).
        to_train: keep rounded matrices as they were before rounding, with the scales.

    Raises:
        UsageError: there are more processes than sequences.
        InputError: the architecture is unknown, a weight is NaN or infinite, or a row does not
            divide into groups of the pattern.
    """
    if result := finished(checkpoint, folder):
        return result
    store = BlockStore(folder)
    runner = _runner(model := load_model(checkpoint), streams, pruning, device)
    stored = frozenset(checkpoint.weights().names())
    run = BlockPruner(runner, pruning, plan, stored, folder, progress, dense_statistics, to_train)
    start, hidden = _resumed(runner, store)
    head = _head(model, stored, pruning, plan)
    total = len(runner.blocks) + bool(head)
    with progress.stage("prune blocks", total) as stage:
        stage.advance(start)
        if not hidden and not dense_statistics:
            hidden = _embedded(runner, store)
        hidden = _through_blocks(run, runner, store, start, total, hidden, stage)
        if head:
            _save(store, len(runner.blocks), run.prune_head(head, hidden))
            stage.advance()
    if distributed.is_first():
        write_json(folder / "done.json", {"files": total})
    distributed.wait()
    run.clean_up()
    store.drop_hidden()
    return _collect(checkpoint, store, total)


def _save(store: BlockStore, index: int, pruned: PrunedTensors) -> None:
    if distributed.is_first():
        store.save_block(index, pruned)


def _resumed(runner: BlockRunner, store: BlockStore) -> tuple[int, dict[str, Tensor]]:
    """The next block to prune, and the states before it: where every process can go on."""
    start, hidden = store.resume(runner.shapes)
    return (start, hidden) if distributed.agree(start) == start else (0, {})


def _embedded(runner: BlockRunner, store: BlockStore) -> dict[str, Tensor]:
    """Hidden states before the first block."""
    hidden = store.new_hidden(0, runner.shapes)
    for stream, states in hidden.items():
        runner.embed(stream, states)
    store.keep_hidden(0, runner.shapes)
    return hidden


def _through_blocks(
    run: BlockPruner,
    runner: BlockRunner,
    store: BlockStore,
    start: int,
    total: int,
    hidden: dict[str, Tensor],
    stage: Stage,
) -> dict[str, Tensor]:
    """Prune blocks from ``start`` on, and run both streams through each pruned block.

    Returns:
        The hidden states after the last block, or before it if nothing reads them.
    """
    with ThreadPoolExecutor(1) as beside:  # the disk works while the next states are computed
        for index in range(start, len(runner.blocks)):
            block, pruned = run.prune_block(index, hidden)
            saved = None
            if distributed.is_first():
                saved = beside.submit(store.save_block, index, pruned)
            following = {}
            if hidden and index + 1 < total:  # nothing reads what the last one makes
                following = store.new_hidden(index + 1, runner.shapes)
                for stream, states in hidden.items():
                    runner.advance(index, block, states, following[stream])
            if saved:
                saved.result()
            if following:  # only now: a run that was killed goes on behind a saved block
                store.keep_hidden(index + 1, runner.shapes)
                hidden = following
            stage.advance()
    return hidden


def finished(checkpoint: Checkpoint, folder: Path) -> PrunedCheckpoint | None:
    """Read the result in ``folder``, if the run finished and every block is still whole."""
    done = read_json(folder / "done.json")
    store = BlockStore(folder)
    if done is None or not store.complete(done["files"]):
        return None
    return _collect(checkpoint, store, done["files"])


def _runner(model: Any, streams: dict[str, Stream], pruning: Pruning, device: str) -> BlockRunner:
    """Run the streams that the fusion mode looks at, if the model can take them."""
    fewest, processes = min(len(s.tokens) for s in streams.values()), distributed.world()[1]
    if fewest < processes:
        raise UsageError(
            f"{processes} processes cannot share streams of {fewest} sequences: each process "
            "needs one.",
            "Launch fewer processes, or give more rows or a larger --samples.",
        )
    length = next(iter(streams.values())).tokens.shape[1]
    limit = getattr(model.config, "max_position_embeddings", length)
    if length > limit:
        raise InputError(
            f"Sequences of {length} tokens do not fit into the model's context of {limit} tokens.",
            f"Use --length {limit} or less.",
        )
    used = {name: streams[name] for name in pruning.streams}
    return BlockRunner(model, used, pick_device(device))


def _collect(checkpoint: Checkpoint, store: BlockStore, total: int) -> PrunedCheckpoint:
    indices = range(total)
    return PrunedCheckpoint(
        checkpoint,
        [store.block_file(i) for i in indices],
        [record for i in indices for record in store.records(i)],
        [store.calibration_file(i) for i in indices],
    )


def _head(model: Any, stored: frozenset[str], pruning: Pruning, plan: ModelPlan) -> str:
    """Name the output head in the checkpoint, if it is pruned, or rounded on its input."""
    if pruning.head:
        return _head_name(model, stored)
    rounded = {name for name in plan.grids if block_of(name) is None}
    if not rounded or pruning.how.gradient:
        return ""
    name = _head_name(model, stored)
    return name if name in rounded else ""


def _head_name(model: Any, stored: frozenset[str]) -> str:
    """Find the head's name in the checkpoint; a tied head is stored as the embedding, the first."""
    weight = model.get_output_embeddings().weight
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter is weight:
            with contextlib.suppress(InputError):
                return next(iter(stored_tensors(model, {name: weight}, stored)))
    raise InputError(
        "The checkpoint stores the output head under an unknown name.",
        "Remove pruning.head and artifact.head_type from the recipe.",
    )
