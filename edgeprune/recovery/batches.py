"""Which sequences a training step sees: a function of the step alone, so that a run can go on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# One sequence in so many of each stream is not trained on, up to so many: judging takes time.
_HELD_OUT_EVERY, _HELD_OUT_MOST = 10, 6
# A small task is learnt by heart when it is seen more often; general text goes on alone.
_TASK_EPOCHS = 2


class Sample(NamedTuple):
    """One sequence of a step.

    Attributes:
        stream: ``general`` or ``task``.
        tokens: (length,).
        weights: of predicting the next token from each position but the last, (length - 1,).
    """

    stream: str
    tokens: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Batches:
    """Sequences of both streams and how much their tokens count.

    Attributes:
        tokens: (sequences, length) by stream.
        weights: of predicting the next token from each position, (sequences, length - 1).
        shares: of each stream in the loss that judges; of the task's in training, at most.
        seed: of the order.
        factor: of the weights of a sequence of the task, which is asked when the sequence's turn
            comes; None: 1.
    """

    tokens: dict[str, Tensor]
    weights: dict[str, Tensor]
    shares: dict[str, float]
    seed: int
    factor: Callable[[Tensor], Tensor] | None = None

    def task_share(self, sequences: int) -> float:
        """The task's among so many sequences: its own, or as much as two epochs of it are.

        A task that is all there is comes as often as it must.
        """
        share = self.shares["task"]
        if share in (0, 1):
            return share
        return min(share, _TASK_EPOCHS * len(self.tokens["task"]) / sequences)

    def step(self, number: int, batch: int, task_share: float) -> list[Sample]:
        """Sequences of one step with their tokens' weights, which sum to 1 over the step.

        As many sequences are of the task as its share says, across steps; every sequence of a
        stream is seen once before any is seen again.

        Args:
            number: of the step, from 0.
            batch: sequences in all.
            task_share: of them, the same in all steps.
        """

        def of_the_task(sequences: int) -> int:
            return math.floor(sequences * task_share + 0.5)

        picked: dict[str, list[int]] = {}
        for position in range(number * batch, (number + 1) * batch):
            before, after = (of_the_task(p) for p in (position, position + 1))
            name, place = ("task", before) if after > before else ("general", position - before)
            picked.setdefault(name, []).append(self._pick(name, place))
        found: list[Sample] = []
        for name, places in picked.items():
            found += self._weighted(name, places, len(places) / batch)
        return found

    def all(self) -> list[Sample]:
        """Every sequence once; weights sum to 1 over all."""
        found: list[Sample] = []
        for name, tokens in self.tokens.items():
            found += self._weighted(name, list(range(len(tokens))), self.shares[name])
        return found

    def _weighted(self, name: str, places: list[int], share: float) -> list[Sample]:
        weights = self.weights[name][places]
        if self.factor and name == "task":
            weights = weights * torch.stack([self.factor(self.tokens[name][p]) for p in places])
        weights = share * weights / weights.sum().clamp_min(1e-9)
        return [
            Sample(name, *pair) for pair in zip(self.tokens[name][places], weights, strict=True)
        ]

    def _pick(self, name: str, position: int) -> int:
        size = len(self.tokens[name])
        epoch, place = divmod(position, size)
        order = torch.Generator().manual_seed(self.seed + epoch)
        return int(torch.randperm(size, generator=order)[place])


def is_held_out(sequences: int) -> Tensor:
    """Which sequences of a stream no training sees, (sequences,) boolean."""
    places = torch.arange(sequences)
    return (places % _HELD_OUT_EVERY == 0) & (places < _HELD_OUT_EVERY * _HELD_OUT_MOST)


def split(
    tokens: dict[str, Tensor],
    weights: dict[str, Tensor],
    task_share: float,
    seed: int,
    factor: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Batches, Batches]:
    """What is trained on, and a held-out slice to judge by.

    Args:
        tokens: of ``general`` and ``task``, (sequences, length).
        weights: of predicting each token but the first, (sequences, length - 1).
        task_share: the task stream's share; a stream with none is left out.
        seed: of the order.
        factor: as `Batches.factor`.

    Returns:
        Training and held-out sequences; the same ones if a stream has but one.
    """
    shares = {"general": 1 - task_share, "task": task_share}
    sides: list[Batches] = []
    for side in (False, True):
        masks = {}
        for name in (name for name, share in shares.items() if share):
            held = is_held_out(len(tokens[name]))
            masks[name] = held if len(held) == 1 else held == side
        chosen = {name: tokens[name][mask] for name, mask in masks.items()}
        counted = {name: weights[name][mask] for name, mask in masks.items()}
        sides.append(Batches(chosen, counted, shares, seed, factor))
    return sides[0], sides[1]
