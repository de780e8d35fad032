"""Reconstruction: each attention and each MLP learns to give what the dense one gives.

Windows with a non-linearity inside are rebuilt one after the other (arXiv 2510.14444): inputs come
through the blocks already rebuilt, targets from the dense model's own stream. One block of each
model and four sets of hidden states are all that is held; no gradient crosses a block.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.calibration.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.engine.device import pick_device
from edgeprune.engine.store import BlockStore, PrunedTensors
from edgeprune.engine.walk import Walk
from edgeprune.errors import CheckFailed
from edgeprune.files import read_json, write_json
from edgeprune.models.hf import load_model
from edgeprune.models.layers import weight_matrices
from edgeprune.progress import Progress
from edgeprune.recovery.masked import MaskedAdamW, open_student, schedule
from edgeprune.sparsity.stored import stored_tensors
from edgeprune.sparsity.weights import is_whole

_BATCH = 8
_LEAST_STEPS = 4
_LEAST_POWER = 1e-20  # of a submodule that gives nothing but zeros


@dataclass(frozen=True)
class Reconstruction:
    """How to rebuild.

    Attributes:
        seconds: time to take, from which steps are planned on the first block.
        steps: of each submodule instead; the same on every machine.
        learning_rate: Adam's at its highest.
    """

    seconds: float = 300.0
    steps: int | None = None
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Rebuilt:
    """What reconstruction gave.

    Attributes:
        checkpoint: with the rebuilt weights.
        errors: by submodule, relative squared error of its output before and after, mean over
            tokens.
    """

    checkpoint: PrunedCheckpoint
    errors: dict[str, tuple[float, float]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> Rebuilt | None:
    """What a run in ``folder`` left, if it came to its end."""
    done = read_json(folder / "rebuilt.json")
    if done is None:
        return None
    files = [BlockStore(folder).block_file(index) for index in range(done["blocks"])]
    if not all(map(is_whole, files)):
        return None
    errors = {name: tuple(pair) for name, pair in done["errors"].items()}
    return Rebuilt(replace(pruned, files=[*pruned.files, *files]), errors)


def reconstruct(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    how: Reconstruction,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> Rebuilt:
    """Rebuild every submodule under its mask, from the first block to the last.

    Args:
        pruned: the pruned model.
        streams: ``general`` and ``task`` tokens, of equal length; every sequence counts the same.
        how: the settings.
        folder: keeps finished blocks; a run that was killed goes on from the last one. It must
            belong to this model, these streams and ``how`` alone.
        progress: told of every block.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        CheckFailed: a submodule gives values that are no numbers.
    """
    store = BlockStore(folder)
    if result := finished(pruned, folder):
        _clean_up(folder, store)
        return result
    place = pick_device(device)
    dense = Walk(load_model(pruned.base), streams, place, alone=True)
    sparse = Walk(open_student(pruned, folder), streams, place, alone=True)
    shapes = {f"{side}-{name}": shape for side in ("dense", "sparse")
              for name, shape in dense.shapes.items()}  # fmt: skip
    start, hidden = store.resume(shapes)
    known = read_json(folder / "plan.json") or {"steps": how.steps, "errors": {}}
    if not hidden:
        hidden = store.new_hidden(0, shapes)
        for key, states in hidden.items():
            side, _, stream = key.partition("-")
            (dense if side == "dense" else sparse).embed(stream, states)
        store.keep_hidden(0, shapes)
    stored = frozenset(pruned.base.weights().names())
    with progress.stage("rebuild blocks", len(dense.blocks)) as stage:
        stage.advance(start)
        for index in range(start, len(dense.blocks)):
            one = _Block(dense, sparse, index, hidden, how)
            known["steps"] = known["steps"] or one.affordable(len(dense.blocks))
            known["errors"] |= one.rebuild(known["steps"])
            write_json(folder / "plan.json", known)
            prefix = f"{sparse.prefix}.{index}."
            tensors = {prefix + n: p.detach().cpu() for n, p in one.block.named_parameters()}
            named = stored_tensors(sparse.model, tensors, stored)
            store.save_block(index, PrunedTensors(named, [], {}))
            stage.advance()
            if index + 1 == len(dense.blocks):  # nothing reads what the last one makes
                break
            following = store.new_hidden(index + 1, shapes)
            for key, states in hidden.items():
                side, _, _ = key.partition("-")
                walk, block = (dense, one.teacher) if side == "dense" else (sparse, one.block)
                walk.advance(index, block.to(walk.dtype), states, following[key])
            store.keep_hidden(index + 1, shapes)
            hidden = following
    write_json(folder / "rebuilt.json", {"blocks": len(dense.blocks), "errors": known["errors"]})
    _clean_up(folder, store)
    found = finished(pruned, folder)
    assert found
    return found


def _clean_up(folder: Path, store: BlockStore) -> None:
    """Drop what only an unfinished run needs."""
    store.drop_hidden()
    (folder / "plan.json").unlink(missing_ok=True)


class _Reached(Exception):
    """The submodule whose output was wanted has given it."""


class _Block:
    """One block of both models, and the hidden states before it."""

    def __init__(
        self,
        dense: Walk,
        sparse: Walk,
        index: int,
        hidden: dict[str, Tensor],
        how: Reconstruction,
    ):
        self._walk, self._index, self._how = sparse, index, how
        self.teacher = dense.load(index)
        self.block = copy.deepcopy(sparse.blocks[index]).to(sparse.device)  # in float32
        self._inputs = {side: [h for key, h in hidden.items() if key.startswith(side)]
                        for side in ("dense", "sparse")}  # fmt: skip
        self._count = sum(len(states) for states in self._inputs["sparse"])

    def affordable(self, blocks: int) -> int:
        """Steps for each submodule that fit into the time, by what two of them take here."""
        seconds = 0.0
        for name, module in self._submodules().items():
            targets = self._targets(name)
            module.requires_grad_(True)
            for _ in range(2):  # the first allocates
                begin = time.perf_counter()
                self._loss(name, targets, range(min(_BATCH, self._count))).backward()
            seconds += time.perf_counter() - begin
            module.requires_grad_(False).zero_grad()
        left = self._how.seconds / blocks
        return max(_LEAST_STEPS, int(left / seconds) - _passes(self._count))

    def rebuild(self, steps: int) -> dict[str, tuple[float, float]]:
        """Train the submodules in turn: relative errors before and after, by name."""
        errors = {}
        for name, module in self._submodules().items():
            targets = self._targets(name)
            before = self._error(name, targets)
            if not math.isfinite(before):
                raise CheckFailed(
                    f"{name} of block {self._index} gives values that are no numbers, in the dense "
                    "or in the pruned model.",
                    "Build without --recover to see which.",
                )
            after = self._train(name, module, targets, steps, before)
            errors[f"{self._index}.{name}"] = (before, after)
        return errors

    def _submodules(self) -> dict[str, nn.Module]:
        """The block's children that hold pruned matrices: attention and MLP, by whatever name."""
        names = dict.fromkeys(m.module.partition(".")[0] for m in
                              weight_matrices(self.block).values())  # fmt: skip
        return {name: self.block.get_submodule(name) for name in names}

    def _train(
        self, name: str, module: nn.Module, targets: Tensor, steps: int, before: float
    ) -> float:
        """The error afterwards; the weights are as they were if it is not below ``before``."""
        parameters = dict(module.requires_grad_(True).named_parameters())
        kept = {n: p.detach().clone() for n, p in parameters.items()}
        optimizer = MaskedAdamW(parameters, self._how.learning_rate)
        order = _order(self._count, steps)
        for step in range(steps):
            loss = self._loss(name, targets, next(order))
            loss.backward()
            optimizer.step(schedule(step, steps))
        module.requires_grad_(False)
        after = self._error(name, targets)
        if after < before:
            return after
        for n, parameter in parameters.items():  # a step too far; or no number
            parameter.data.copy_(kept[n])
        return before

    @torch.no_grad()
    def _error(self, name: str, targets: Tensor) -> float:
        losses = [
            self._loss(name, targets, part) * len(part)
            for part in _chunks(range(self._count), _BATCH)
        ]
        return float(sum(losses)) / self._count

    def _loss(self, name: str, targets: Tensor, samples: range | list[int]) -> Tensor:
        part = torch.cat([self._sample("sparse", i) for i in samples])
        wanted = torch.cat([targets[i : i + 1] for i in samples])
        made = self._output(self.block, name, part)
        return relative_error(made, wanted.to(made.device))

    @torch.no_grad()
    def _targets(self, name: str) -> Tensor:
        """What the dense submodule gives on the dense stream, (samples, length, width)."""
        parts = [
            self._output(self.teacher, name, torch.cat([self._sample("dense", i) for i in part]))
            for part in _chunks(range(self._count), _BATCH)
        ]
        return torch.cat([part.to("cpu", self._walk.dtype) for part in parts])

    def _output(self, block: nn.Module, name: str, states: Tensor) -> Tensor:
        """Of a submodule, from what comes into the block, (batch, length, width)."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, output: object) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]
            raise _Reached

        hook = block.get_submodule(name).register_forward_hook(keep)
        device, dtype = self._walk.device, self._walk.dtype
        try:
            with torch.autocast(device.type, dtype, dtype != torch.float32):
                self._walk.call(self._index, len(states)).run(block, states.to(device))
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
    """Mean over tokens of the squared error, relative to the power of what is wanted there.

    Attention sinks give outputs a thousand times above all others: in a plain mean they would be
    all that is learnt. Tokens below the median count as if they were there, as small ones hardly
    change what follows.

    Args:
        made: (samples, length, width).
        wanted: the same shape.

    Returns:
        A number, differentiable in ``made``.
    """
    wanted = wanted.float()
    power = wanted.square().mean(-1)
    power = power.clamp_min(power.median().clamp_min(_LEAST_POWER))
    return ((made.float() - wanted).square().mean(-1) / power).mean()


def _order(count: int, steps: int) -> Iterator[list[int]]:
    """Batches of samples: all once in random order, then again in another."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        order = torch.randperm(count, generator=generator).tolist()
        yield from _chunks(order, _BATCH)


def _chunks(items: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _passes(count: int) -> int:
    """What the passes without gradients cost, in steps.

    Targets, errors before and after, and the way to the next block, through both models for both
    submodules.
    """
    return round(4 * count / _BATCH / 3)
