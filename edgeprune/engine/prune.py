"""The sequential loop: gather statistics of a block, prune it, push both streams through it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.calibration.streams import Stream
from edgeprune.engine import parallel
from edgeprune.engine.device import pick_device
from edgeprune.engine.fisher import Fisher, gather_fisher
from edgeprune.engine.store import BlockStore, TensorRecord
from edgeprune.engine.walk import Walk
from edgeprune.engine.weights import token_weights
from edgeprune.errors import InputError
from edgeprune.files import read_json, write_json
from edgeprune.fusion import TwoStreams
from edgeprune.matrix import Pruning, prune_matrix
from edgeprune.methods.statistics import InputStatistics
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.hf import load_model
from edgeprune.models.layers import Matrix, weight_matrices
from edgeprune.patterns import Budget
from edgeprune.progress import Progress
from edgeprune.sparsity.weights import Weights


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A base checkpoint and the pruned tensors that stand in for its own.

    Attributes:
        base: what was pruned.
        files: safetensors files with the pruned tensors.
        records: one for each pruned tensor.
    """

    base: Checkpoint
    files: list[Path]
    records: list[TensorRecord]

    def weights(self) -> Weights:
        """All weights, pruned ones in place of the base's."""
        return Weights([*self.base.weight_files, *self.files])


def prune(
    checkpoint: Checkpoint,
    streams: dict[str, Stream],
    pruning: Pruning,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> PrunedCheckpoint:
    """Prune a model, one block at a time.

    In a `torch.distributed` process group every process takes its share of the sequences and
    returns the same result; the folder must be one that all of them see.

    Args:
        checkpoint: the dense model.
        streams: ``general`` and ``task`` tokens.
        pruning: how.
        folder: keeps finished blocks; a run that was killed goes on from the last one, so the
            folder must belong to this model, these streams and this ``pruning`` alone.
        progress: told of every block.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: the architecture is unknown, a weight is not finite, or a row does not divide
            into groups of the pattern.
    """
    if result := finished(checkpoint, folder):
        return result
    store = BlockStore(folder)
    model = load_model(checkpoint)
    _check_length(model, streams)
    walk = Walk(model, {name: streams[name] for name in pruning.streams}, pick_device(device))
    run = _Run(walk, pruning, folder, progress)
    start, hidden = store.resume(walk.shapes)
    if parallel.agree(start) != start:
        start, hidden = 0, {}
    total = len(walk.blocks) + pruning.head
    first = parallel.world()[0] == 0
    with progress.stage("prune blocks", total) as stage:
        stage.advance(start)
        hidden = hidden or walk.first_hidden()
        for index in range(start, len(walk.blocks)):
            following = store.new_hidden(index, walk.shapes)
            tensors, records = run.prune_block(index, hidden, following)
            if first:
                store.save_block(index, tensors, records)
            store.keep_hidden(index, walk.shapes)
            hidden = following
            stage.advance()
        if pruning.head:
            name = _head_name(checkpoint, model.config.tie_word_embeddings)
            tensors, records = run.prune_head(name, hidden)
            if first:
                store.save_block(len(walk.blocks), tensors, records)
            stage.advance()
    if first:
        write_json(folder / "done.json", {"files": total})
    parallel.wait()
    run.clean_up()
    store.drop_hidden()
    return _collect(checkpoint, store, total)


def finished(checkpoint: Checkpoint, folder: Path) -> PrunedCheckpoint | None:
    """What a run in ``folder`` left, if it came to its end and every block is still whole."""
    done = read_json(folder / "done.json")
    store = BlockStore(folder)
    if done is None or not store.complete(done["files"]):
        return None
    return _collect(checkpoint, store, done["files"])


def _check_length(model: Any, streams: dict[str, Stream]) -> None:
    length = next(iter(streams.values())).tokens.shape[1]
    limit = getattr(model.config, "max_position_embeddings", length)
    if length > limit:
        raise InputError(
            f"Sequences of {length} tokens do not fit the model's context of {limit}.",
            f"Use --length {limit} or less.",
        )


def _collect(checkpoint: Checkpoint, store: BlockStore, total: int) -> PrunedCheckpoint:
    indices = range(total)
    return PrunedCheckpoint(
        checkpoint,
        [store.block_file(i) for i in indices],
        [record for i in indices for record in store.records(i)],
    )


def _head_name(checkpoint: Checkpoint, tied: bool) -> str:
    """The head's name in the checkpoint: a tied head is stored as the embedding."""
    names = set(checkpoint.weights().names())
    choices = ["lm_head.weight", "model.embed_tokens.weight"]
    for name in reversed(choices) if tied else choices:
        if name in names:
            return name
    raise InputError(
        "The output head is stored under a name that edgeprune doesn't know.",
        "Leave prune_head out.",
    )


class _Run:
    """Prunes the blocks of one walk."""

    def __init__(self, walk: Walk, pruning: Pruning, folder: Path, progress: Progress):
        self._walk = walk
        self._pruning = pruning
        self._fisher_file = folder / "fisher.safetensors"
        self._fisher: Fisher | None = None
        if pruning.how.gradient == "model":
            self._fisher = gather_fisher(
                walk.model, walk.blocks, walk.streams, walk.dtype, self._fisher_file, progress
            )
        self._weights = {
            name: token_weights(
                stream, pruning.answer_weight, pruning.surprising_weight, walk.model
            )
            for name, stream in walk.streams.items()
        }

    def clean_up(self) -> None:
        """Remove what is only needed to go on."""
        self._fisher_file.unlink(missing_ok=True)

    @torch.no_grad()
    def prune_block(
        self, index: int, hidden: dict[str, Tensor], following: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[TensorRecord]]:
        """Prune one block and fill ``following`` with what the pruned block makes of ``hidden``."""
        source, block = self._walk.blocks[index], self._walk.load(index)
        matrices = weight_matrices(source)
        inputs = self._inputs(index, block, matrices, hidden)
        tensors, records = {}, []
        for name, matrix in matrices.items():
            full_name = f"{self._walk.prefix}.{index}.{name}"
            pruned, record = self._prune_matrix(full_name, matrix.read(source), inputs[name])
            matrix.write(source, pruned)
            matrix.write(block, pruned)
            records.append(record)
        names = {matrix.parameter for matrix in matrices.values()}
        for name in sorted(names):
            tensors[f"{self._walk.prefix}.{index}.{name}"] = source.get_parameter(name).data
        for stream, states in hidden.items():
            self._walk.advance(index, block, states, following[stream])
        return tensors, records

    @torch.no_grad()
    def prune_head(
        self, name: str, hidden: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[TensorRecord]]:
        """Prune the output head by the statistics of its input."""
        if self._pruning.how.gradient:
            raise InputError(
                f"Method '{self._pruning.method}' has no gradients of the output head.",
                "Leave prune_head out, or choose another --method.",
            )
        seen = {
            stream: self._walk.head_statistics(
                stream, states, self._weights[stream], self._pruning.needs_gram
            )
            for stream, states in hidden.items()
        }
        inputs = self._join(seen)
        weight = self._walk.model.get_output_embeddings().weight
        pruned, record = self._prune_matrix(name, weight, inputs)
        return {name: pruned}, [record]

    def _inputs(
        self, index: int, block: nn.Module, matrices: dict[str, Matrix], hidden: dict[str, Tensor]
    ) -> dict[str, TwoStreams]:
        """What both streams put into each matrix; matrices that read one input share it."""
        seen = {
            stream: self._walk.statistics(
                index, block, matrices, states, self._weights[stream], self._pruning.needs_gram
            )
            for stream, states in hidden.items()
        }
        shared: dict[tuple[int, ...], TwoStreams] = {}
        inputs = {}
        for name in matrices:
            own = {stream: statistics[name] for stream, statistics in seen.items()}
            key = tuple(map(id, own.values()))
            inputs[name] = shared.setdefault(key, self._join(own))
        if self._pruning.how.gradient is None:
            return inputs
        gradients = {
            stream: self._gradients(index, block, matrices, stream, states)
            for stream, states in hidden.items()
        }
        return {
            name: two.with_gradients({s: of[name] for s, of in gradients.items()})
            for name, two in inputs.items()
        }

    def _join(self, seen: dict[str, InputStatistics]) -> TwoStreams:
        return TwoStreams(seen, self._pruning.fusion)

    def _gradients(
        self, index: int, block: nn.Module, matrices: dict[str, Matrix], stream: str, states: Tensor
    ) -> dict[str, Tensor]:
        if self._fisher is None:
            with torch.enable_grad():
                return self._walk.gradients(index, block, matrices, stream, states)
        prefix = f"{self._walk.prefix}.{index}."
        return {
            name: matrix.view(self._fisher.read(stream, prefix + matrix.parameter)).to(
                self._walk.device
            )
            for name, matrix in matrices.items()
        }

    def _prune_matrix(
        self, name: str, weight: Tensor, inputs: TwoStreams
    ) -> tuple[Tensor, TensorRecord]:
        if not torch.isfinite(weight).all():
            raise InputError(f"The weight {name} holds NaN or infinite values.", "Check the model.")
        pruning = self._pruning
        if not pruning.pattern.fits(weight.shape[1]):
            raise InputError(
                f"{name} has {weight.shape[1]} inputs, which do not divide into groups of "
                f"{pruning.pattern.group}.",
                "Choose another --pattern.",
            )
        dense = weight.to(self._walk.device).float()
        budget = Budget(pruning.pattern, round(pruning.sparsity * weight.numel()))
        pruned = prune_matrix(dense, inputs, pruning, budget)
        error = None
        if inputs.joint.gram is not None:
            error = relative_error(dense, pruned, inputs.joint.gram.matrix)
        pruned = pruned.to(weight.dtype).cpu()
        rows, columns = weight.shape
        return pruned, TensorRecord(
            name=name,
            shape=(rows, columns),
            nonzeros=int(torch.count_nonzero(pruned)),
            exclusive=inputs.exclusive_shares(),
            error=error,
        )


def relative_error(dense: Tensor, pruned: Tensor, gram: Tensor) -> float:
    """``tr (ΔW H ΔWᵀ) / tr (W H Wᵀ)``: share of a layer's output power that pruning changed."""
    change = dense - pruned
    lost = ((change @ gram) * change).sum()
    return (lost / ((dense @ gram) * dense).sum().clamp_min(1e-30)).item()
