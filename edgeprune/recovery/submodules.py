"""Attention and MLP of one block in both models, each trained on its own."""

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.data.streams import Stream
from edgeprune.engine.runner import BlockRunner
from edgeprune.models.blocks import weight_matrices
from edgeprune.recovery.optimizer import MaskedAdamW, schedule
from edgeprune.support.errors import CheckFailed

BATCH = 8  # sequences a step
_READS = 5  # passes of all submodules without gradients; a whole block is at most one
_LEAST_POWER = 1e-20  # of a submodule that gives nothing but zeros


class BlockRunners:
    """Block runners of both models, on the same sequences.

    Args:
        models: ``dense`` and ``sparse``, the latter in float32.
        streams: token streams that both models read.
        device: device that runs the blocks.

    Attributes:
        sparse: the sparse model's runner.
        blocks: number of blocks.
        shapes: shapes of the hidden states of each model and stream.
    """

    def __init__(self, models: dict[str, Any], streams: dict[str, Stream], device: torch.device):
        self._walks = {s: BlockRunner(m, streams, device, alone=True) for s, m in models.items()}
        self.sparse = self._walks["sparse"]
        self.blocks = len(self.sparse.blocks)
        self.shapes = {f"{side}-{name}": shape for side, runner in self._walks.items()
                       for name, shape in runner.shapes.items()}  # fmt: skip

    def prefix(self, index: int) -> str:
        """Return the prefix of a block's parameters in the model."""
        return f"{self.sparse.prefix}.{index}."

    def load_dense(self, index: int) -> nn.Module:
        """Copy the dense model's block to the device, in the compute type."""
        return self._walks["dense"].load(index)

    def embed(self, into: dict[str, Tensor]) -> None:
        """Write the inputs of the first blocks."""
        for key, states in into.items():
            side, _, stream = key.partition("-")
            self._walks[side].embed(stream, states)

    def advance(
        self, index: int, blocks: dict[str, nn.Module], states: dict[str, Tensor],
        into: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Write the blocks' outputs for ``states``."""
        for key, before in states.items():
            side = key.partition("-")[0]
            runner = self._walks[side]
            runner.advance(index, blocks[side].to(runner.dtype), before, into[key])


class _Reached(Exception):
    """Raised when the wanted submodule has given its output."""


class Block:
    """One block in both models, and the hidden states before it.

    Attributes:
        teacher: the dense model's block.
        block: the sparse model's block, in float32.
    """

    def __init__(self, both: BlockRunners, index: int, hidden: dict[str, Tensor]):
        self._runner, self._index = both.sparse, index
        self.teacher = both.load_dense(index)
        self.block = copy.deepcopy(self._runner.blocks[index]).to(self._runner.device)  # in float32
        self._inputs = {side: [h for key, h in hidden.items() if key.startswith(side)]
                        for side in ("dense", "sparse")}  # fmt: skip
        self._count = sum(len(states) for states in self._inputs["sparse"])

    def timed(self) -> tuple[float, float]:
        """Time a step of every submodule and a pass over a batch without gradients, in seconds.

        A batch is read for targets, for errors before and after, and on the way to the next block
        through both models.
        """
        step, reading = 0.0, 0.0
        some = range(min(BATCH, self._count))
        for name, module in self._submodules().items():
            targets = self._targets(name)
            module.requires_grad_(True)
            for _ in range(2):  # the first allocates
                begin = time.perf_counter()
                self._loss(name, targets, some).backward()
            step += time.perf_counter() - begin
            module.requires_grad_(False).zero_grad()
            begin = time.perf_counter()
            self._loss(name, targets, some)
            reading += _READS * (time.perf_counter() - begin)
        return step, reading

    def reconstruct(self, steps: int, learning_rate: float) -> dict[str, tuple[float, float]]:
        """Train the submodules in turn, and return relative errors before and after, by name."""
        errors = {}
        for name in self._submodules():
            targets = self._targets(name)
            before = self._error(name, targets)
            if not math.isfinite(before):
                raise CheckFailed(
                    f"The outputs of {name} in block {self._index} are NaN or infinite, in the "
                    "dense or the pruned model.",
                    "Build without --recover to find out which model it is.",
                )
            after = self._train(name, targets, steps, learning_rate, before)
            errors[f"{self._index}.{name}"] = (before, after)
        return errors

    def _submodules(self) -> dict[str, nn.Module]:
        """Find the block's children that hold pruned matrices: attention and MLP, by any name."""
        names = dict.fromkeys(m.module.partition(".")[0] for m in
                              weight_matrices(self.block).values())  # fmt: skip
        return {name: self.block.get_submodule(name) for name in names}

    def _train(
        self, name: str, targets: Tensor, steps: int, learning_rate: float, before: float
    ) -> float:
        """Train and return the new error; restore the weights if it is not below ``before``."""
        module = self.block.get_submodule(name)
        parameters = dict(module.requires_grad_(True).named_parameters())
        kept = {n: p.detach().clone() for n, p in parameters.items()}
        optimizer = MaskedAdamW(parameters, learning_rate)
        order = _order(self._count, steps)
        for step in range(steps):
            loss = self._loss(name, targets, next(order))
            loss.backward()
            optimizer.step(schedule(step, steps))
        module.requires_grad_(False)
        after = self._error(name, targets)
        if after < before:
            return after
        for n, parameter in parameters.items():  # a step too far, or NaN
            parameter.data.copy_(kept[n])
        return before

    @torch.no_grad()
    def _error(self, name: str, targets: Tensor) -> float:
        losses = [
            self._loss(name, targets, part) * len(part)
            for part in _chunks(range(self._count), BATCH)
        ]
        return float(sum(losses)) / self._count

    def _loss(self, name: str, targets: Tensor, samples: range | list[int]) -> Tensor:
        part = torch.cat([self._sample("sparse", i) for i in samples])
        wanted = torch.cat([targets[i : i + 1] for i in samples])
        made = self._output(self.block, name, part)
        return relative_error(made, wanted.to(made.device))

    @torch.no_grad()
    def _targets(self, name: str) -> Tensor:
        """Compute the dense submodule's outputs on the dense stream, (samples, length, width)."""
        parts = [
            self._output(self.teacher, name, torch.cat([self._sample("dense", i) for i in part]))
            for part in _chunks(range(self._count), BATCH)
        ]
        return torch.cat([part.to("cpu", self._runner.dtype) for part in parts])

    def _output(self, block: nn.Module, name: str, states: Tensor) -> Tensor:
        """Compute a submodule's output from the block's input, (batch, length, width)."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, output: object) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]
            raise _Reached

        hook = block.get_submodule(name).register_forward_hook(keep)
        device, dtype = self._runner.device, self._runner.dtype
        try:
            with torch.autocast(device.type, dtype, dtype != torch.float32):
                self._runner.call(self._index, len(states)).run(block, states.to(device))
        except _Reached:  # nothing needs the rest of the block
            pass
        finally:
            hook.remove()
        return seen[0]

    def _sample(self, side: str, number: int) -> Tensor:
        for states in self._inputs[side]:
            if number < len(states):
                return states[number : number + 1]
            number -= len(states)
        raise IndexError(number)


def relative_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Compute the squared error relative to each token's target power, averaged over tokens.

    Outputs at attention sinks are a thousand times larger than all others and would dominate a
    plain mean. Tokens below the median power count as if at the median, since small outputs hardly
    change later layers.

    Args:
        made: (samples, length, width) outputs.
        wanted: targets of the same shape.

    Returns:
        A scalar, differentiable in ``made``.
    """
    wanted = wanted.float()
    power = wanted.square().mean(-1)
    power = power.clamp_min(power.median().clamp_min(_LEAST_POWER))
    return ((made.float() - wanted).square().mean(-1) / power).mean()


def _order(count: int, steps: int) -> Iterator[list[int]]:
    """Yield batches of samples: all once in random order, then again in a new order."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        order = torch.randperm(count, generator=generator).tolist()
        yield from _chunks(order, BATCH)


def _chunks(items: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
