"""The block runner: one model, and both streams on their way through its blocks."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.data.streams import Stream
from edgeprune.engine.capture import BlockCall, head_input, record_calls
from edgeprune.engine.device import compute_dtype
from edgeprune.engine.hooks import StatisticsHooks, block_gradients
from edgeprune.engine.store import HiddenShape
from edgeprune.models.blocks import WeightView, decoder_blocks
from edgeprune.pruning.statistics import Accumulator, InputStatistics
from edgeprune.support import distributed

# Tokens per forward pass: enough to keep matrix products efficient, few enough to stay in memory.
_TOKENS_PER_BATCH = 4096


class BlockRunner:
    """Runs blocks one at a time on the hidden states of both streams.

    Args:
        model: a causal language model, in whatever type it is stored.
        streams: ``general`` and ``task`` tokens; in a process group, each process takes its share.
        device: device that runs the blocks; the model and the hidden states stay on the CPU.
        alone: whether this process sees all sequences even in a process group.

    Attributes:
        prefix: name of the list of blocks in the model.
        blocks: the decoder blocks.
        streams: this process's sequences.
        shapes: shape and type of each stream's hidden states.
    """

    def __init__(
        self, model: Any, streams: dict[str, Stream], device: torch.device, alone: bool = False
    ):
        self.model = model
        self.prefix, self.blocks = decoder_blocks(model)
        self.device = device
        self.dtype = compute_dtype(device)
        self.streams = {
            name: s if alone else Stream(distributed.share(s.tokens), distributed.share(s.answers))
            for name, s in streams.items()
        }
        self._samples = {name: len(stream.tokens) for name, stream in streams.items()}
        length = next(iter(streams.values())).tokens.shape[1]
        self._batch = max(1, _TOKENS_PER_BATCH // length)
        self._calls: dict[int, list[BlockCall]] = {}
        width = model.get_input_embeddings().weight.shape[1]
        self.shapes = {
            name: HiddenShape((len(stream.tokens), length, width), self.dtype)
            for name, stream in self.streams.items()
        }

    def embed(self, stream: str, into: Tensor) -> None:
        """Write the first block's input, (samples, length, width), into ``into``."""
        tokens = self.streams[stream].tokens.split(self._batch)
        for ids, place in zip(tokens, into.split(self._batch), strict=True):
            place.copy_(record_calls(self.model, self.blocks, ids)[0])

    def load(self, index: int) -> nn.Module:
        """Copy a block to the device, in the compute type."""
        return copy.deepcopy(self.blocks[index]).to(self.device, self.dtype)

    def statistics(
        self,
        index: int,
        block: nn.Module,
        matrices: dict[str, WeightView],
        states: Tensor,
        weights: Tensor,
        gram: bool,
    ) -> dict[str, InputStatistics]:
        """Gather a stream's statistics of each matrix of a block; equal inputs share one object.

        Experts that were routed too few tokens (`StatisticsHooks.starved`) get all in a second
        pass.

        Args:
            index: the block's index.
            block: the block from `load`.
            matrices: the block's matrices.
            states: (samples, length, width) hidden states before the block.
            weights: (samples, length) weights of the tokens.
            gram: whether to gather Gram matrices.
        """

        def gather(some: dict[str, WeightView], as_routed: bool) -> StatisticsHooks:
            with StatisticsHooks(block, some, gram, as_routed) as gatherer, torch.no_grad():
                for part, weight in zip(
                    self._on_device(states), weights.split(self._batch), strict=True
                ):
                    call = self.call(index, len(part))
                    gatherer.run(partial(call.run, block, part), weight.to(self.device))
            return gatherer

        seen = gather(matrices, as_routed=True)
        statistics = seen.statistics()
        if starved := {name: matrices[name] for name in seen.starved()}:
            statistics |= gather(starved, as_routed=False).statistics()
        return statistics

    def gradients(
        self,
        index: int,
        block: nn.Module,
        matrices: dict[str, WeightView],
        stream: str,
        states: Tensor,
    ) -> dict[str, Tensor]:
        """Compute mean squared gradients of the norm of the block's output, per matrix."""
        block.requires_grad_(True)
        call = self.call(index, 1)
        outputs = (call.run(block, part.to(self.device)) for part in states.split(1))
        result = block_gradients(block, matrices, outputs, self._samples[stream])
        block.requires_grad_(False)
        return result

    @torch.no_grad()
    def advance(self, index: int, block: nn.Module, states: Tensor, into: Tensor) -> None:
        """Write the block's output for ``states`` into ``into``; the two may be the same."""
        for part, place in zip(self._on_device(states), into.split(self._batch), strict=True):
            place.copy_(self.call(index, len(part)).run(block, part))

    @torch.no_grad()
    def head_inputs(self, stream: str, states: Tensor) -> Iterator[Tensor]:
        """Yield inputs of the output head, batch by batch, (batch, length, width)."""
        tokens = self.streams[stream].tokens
        dtype = self.model.get_output_embeddings().weight.dtype
        for ids, part in zip(tokens.split(self._batch), states.split(self._batch), strict=True):
            yield head_input(self.model, self.blocks, ids, part.to(dtype)).to(self.device)

    def head_statistics(
        self, stream: str, states: Tensor, weights: Tensor, gram: bool
    ) -> InputStatistics:
        """Gather a stream's statistics of the output head's input."""
        accumulator = Accumulator(states.shape[2], self.device, gram)
        batches = zip(self.head_inputs(stream, states), weights.split(self._batch), strict=True)
        for inputs, weight in batches:
            accumulator.add(inputs.flatten(0, 1), weight.flatten().to(self.device))
        distributed.add_up(accumulator.sums())
        return accumulator.statistics()

    def _on_device(self, states: Tensor) -> Iterator[Tensor]:
        """Yield batches on the device; on a GPU the next batch is copied while one is in use."""
        parts = states.split(self._batch)
        if self.device.type == "cpu":
            yield from parts
            return
        side, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)

        def fetch(part: Tensor) -> Tensor:
            with torch.cuda.stream(side):
                return part.pin_memory().to(self.device, non_blocking=True)

        coming = fetch(parts[0])
        for following in (*parts[1:], None):
            main.wait_stream(side)
            here = coming
            here.record_stream(main)
            if following is not None:
                coming = fetch(following)
            yield here

    def call(self, index: int, size: int) -> BlockCall:
        """Find how the model calls a block, for a batch of so many sequences."""
        if size not in self._calls:  # calls depend on a batch's shape, not on its tokens
            ids = next(iter(self.streams.values())).tokens[:1].expand(size, -1)
            _, calls = record_calls(self.model, self.blocks, ids)
            self._calls[size] = [call.to(self.device, self.dtype) for call in calls]
        return self._calls[size][index]
