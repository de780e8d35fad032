"""The sequential loop: gather statistics of a block, prune it, push both streams through it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.engine.capture import BlockCall, head_input, record_calls
from edgeprune.engine.device import compute_dtype, pick_device
from edgeprune.engine.store import BlockStore, TensorRecord
from edgeprune.errors import InputError
from edgeprune.files import read_json, write_json
from edgeprune.fusion import FusionRule, channel_groups, fused_score
from edgeprune.methods import METHODS
from edgeprune.methods.statistics import Accumulator, InputStatistics
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.hf import load_model
from edgeprune.models.layers import decoder_blocks, linear_layers
from edgeprune.patterns import Pattern, keep_mask
from edgeprune.progress import Progress
from edgeprune.sparsity.weights import Weights

# Tokens per forward pass: enough to keep matrix products efficient, few enough to stay in memory.
_TOKENS_PER_BATCH = 4096
# The attention sink carries activations far above all others and would drown the statistics.
_SINK_POSITIONS = 1


@dataclass(frozen=True)
class Pruning:
    """How to prune.

    Attributes:
        method: name in `edgeprune.methods.METHODS`.
        fusion: how the streams' scores are joined.
        pattern: where zeros may stand.
        sparsity: share of zeros in each pruned matrix; 0 prunes nothing.
        head: whether the output head is pruned too.
    """

    method: str = "wanda"
    fusion: FusionRule = field(default_factory=FusionRule)
    pattern: Pattern = field(default_factory=Pattern)
    sparsity: float = 0.5
    head: bool = False


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
    streams: dict[str, Tensor],
    pruning: Pruning,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> PrunedCheckpoint:
    """Prune a model, one block at a time.

    Args:
        checkpoint: the dense model.
        streams: ``general`` and ``task`` tokens, each (samples, length) int64.
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
    name, blocks = decoder_blocks(model)
    run = _Run(model, blocks, streams, pruning, pick_device(device))
    start, hidden = store.resume()
    total = len(blocks) + pruning.head
    with progress.stage("prune blocks", total) as stage:
        stage.advance(start)
        hidden = hidden or run.first_hidden()
        for index in range(start, len(blocks)):
            tensors, records = run.prune_block(index, f"{name}.{index}", hidden)
            store.save_block(index, tensors, records)
            store.save_hidden(index, hidden)
            stage.advance()
        if pruning.head:
            tensors, records = run.prune_head(
                _head_name(checkpoint, model.config.tie_word_embeddings), hidden
            )
            store.save_block(len(blocks), tensors, records)
            stage.advance()
    write_json(folder / "done.json", {"files": total})
    store.drop_hidden()
    return _collect(checkpoint, store, total)


def finished(checkpoint: Checkpoint, folder: Path) -> PrunedCheckpoint | None:
    """What a run in ``folder`` left, if it came to its end and every block is still whole."""
    done = read_json(folder / "done.json")
    store = BlockStore(folder)
    if done is None or not store.complete(done["files"]):
        return None
    return _collect(checkpoint, store, done["files"])


def _check_length(model: Any, streams: dict[str, Tensor]) -> None:
    length = next(iter(streams.values())).shape[1]
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


@dataclass
class _Run:
    """One model and its two streams on their way through the blocks."""

    model: Any
    blocks: nn.ModuleList
    streams: dict[str, Tensor]
    pruning: Pruning
    device: torch.device

    def __post_init__(self) -> None:
        self.dtype = compute_dtype(self.device)
        length = next(iter(self.streams.values())).shape[1]
        self.batch = max(1, _TOKENS_PER_BATCH // length)
        self._calls: dict[int, list[BlockCall]] = {}

    def first_hidden(self) -> dict[str, Tensor]:
        """Input of the first block for both streams, (samples, length, width) each."""
        return {
            name: torch.cat(
                [
                    record_calls(self.model, self.blocks, part)[0]
                    for part in tokens.split(self.batch)
                ]
            ).to(self.dtype)
            for name, tokens in self.streams.items()
        }

    @torch.no_grad()
    def prune_block(
        self, index: int, prefix: str, hidden: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[TensorRecord]]:
        """Prune one block and replace ``hidden`` by what the pruned block makes of it."""
        source = linear_layers(self.blocks[index])
        block = copy.deepcopy(self.blocks[index]).to(self.device, self.dtype)
        layers = linear_layers(block)
        statistics = {
            name: self._gather(index, block, layers, states) for name, states in hidden.items()
        }
        tensors, records = {}, []
        for name, layer in source.items():
            full_name = f"{prefix}.{name}.weight"
            pruned, record = self._prune_matrix(
                full_name, layer.weight, statistics["general"][name], statistics["task"][name]
            )
            layers[name].weight.copy_(pruned)
            tensors[full_name] = pruned
            records.append(record)
        for states in hidden.values():
            for output, part in self._outputs(index, block, states):
                part.copy_(output)
        return tensors, records

    @torch.no_grad()
    def prune_head(
        self, name: str, hidden: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[TensorRecord]]:
        """Prune the output head by the statistics of its input."""
        weight = self.model.get_output_embeddings().weight
        statistics = {}
        for stream, states in hidden.items():
            accumulator = Accumulator(weight.shape[1], self.device)
            tokens = self.streams[stream]
            for ids, part in zip(tokens.split(self.batch), states.split(self.batch), strict=True):
                inputs = head_input(self.model, self.blocks, ids, part.to(weight.dtype))
                accumulator.add(inputs[:, _SINK_POSITIONS:].to(self.device))
            statistics[stream] = accumulator.statistics()
        pruned, record = self._prune_matrix(name, weight, statistics["general"], statistics["task"])
        return {name: pruned}, [record]

    def _prune_matrix(
        self, name: str, weight: Tensor, general: InputStatistics, task: InputStatistics
    ) -> tuple[Tensor, TensorRecord]:
        if not torch.isfinite(weight).all():
            raise InputError(f"The weight {name} holds NaN or infinite values.", "Check the model.")
        pruning = self.pruning
        if not pruning.pattern.fits(weight.shape[1]):
            raise InputError(
                f"{name} has {weight.shape[1]} inputs, which do not divide into groups of "
                f"{pruning.pattern.group}.",
                "Choose another --pattern.",
            )
        dense = weight.to(self.device)
        scores = fused_score(
            METHODS[pruning.method].score, dense.float(), general, task, pruning.fusion
        )
        mask = keep_mask(scores, pruning.pattern, pruning.sparsity)
        pruned = torch.where(mask, dense, torch.zeros_like(dense)).cpu()
        groups = channel_groups(general, task, pruning.fusion)
        rows, columns = weight.shape
        return pruned, TensorRecord(
            name=name,
            shape=(rows, columns),
            nonzeros=int(torch.count_nonzero(pruned)),
            exclusive_general=groups.general.float().mean().item(),
            exclusive_task=groups.task.float().mean().item(),
        )

    def _gather(
        self, index: int, block: nn.Module, layers: dict[str, nn.Linear], states: Tensor
    ) -> dict[str, InputStatistics]:
        sums = {name: Accumulator(layer.in_features, self.device) for name, layer in layers.items()}

        def hook(name: str) -> Any:
            return lambda _layer, args: sums[name].add(args[0][:, _SINK_POSITIONS:])

        hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
        try:
            for _ in self._outputs(index, block, states):
                pass
        finally:
            for handle in hooks:
                handle.remove()
        return {name: accumulator.statistics() for name, accumulator in sums.items()}

    def _outputs(
        self, index: int, block: nn.Module, states: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's output beside the part of ``states`` it came from."""
        for part in states.split(self.batch):
            call = self._call(index, part)
            yield call.run(block, part.to(self.device)), part

    def _call(self, index: int, part: Tensor) -> BlockCall:
        size = part.shape[0]
        if size not in self._calls:  # calls depend on a batch's shape, not on its tokens
            tokens = next(iter(self.streams.values()))
            ids = tokens[:1].expand(size, -1)
            _, calls = record_calls(self.model, self.blocks, ids)
            self._calls[size] = [call.to(self.device, self.dtype) for call in calls]
        return self._calls[size][index]
