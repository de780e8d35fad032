"""The sequences of each training step: a function of the step alone, so that a run can resume."""

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
        stream: ``general``, ``chat`` or ``task``.
        tokens: (length,).
        weights: loss weights of predicting the next token from each position but the last, (length
            - 1,).
    """

    stream: str
    tokens: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Batches:
    """Sequences of all streams and the loss weights of their tokens.

    Attributes:
        tokens: (sequences, length) by stream.
        weights: loss weights of predicting the next token from each position, (sequences, length -
            1).
        shares: each stream's share in the held-out loss; in training, an upper limit for the
            task's, and the others share the rest as they do here.
        seed: random seed of the order.
        factor: gives a factor on the weights of a task sequence, called when the sequence's turn
            comes; None: 1.
    """

    tokens: dict[str, Tensor]
    weights: dict[str, Tensor]
    shares: dict[str, float]
    seed: int
    factor: Callable[[Tensor], Tensor] | None = None

    def task_share(self, sequences: int) -> float:
        """Return the task's share of so many sequences, at most what two epochs of it allow.

        A task with nothing beside it is repeated as often as needed.
        """
        share = self.shares["task"]
        if share in (0, 1):
            return share
        return min(share, _TASK_EPOCHS * len(self.tokens["task"]) / sequences)

    def step(self, number: int, batch: int, task_share: float) -> list[Sample]:
        """Return the sequences of one step; their tokens' weights sum to 1 over the step.

        Over all steps, the task's share of the sequences is kept; every sequence of a
        stream is seen once before any is seen again.

        Args:
            number: the step's number, from 0.
            batch: total number of sequences.
            task_share: the task's share of the sequences, the same in all steps.
        """
        chat, text = (self.shares.get(name, 0.0) for name in ("chat", "general"))
        chat_share = chat / (chat + text) if chat else 0.0
        picked: dict[str, list[int]] = {}
        for position in range(number * batch, (number + 1) * batch):
            name, (mine, place) = "task", _divided(position, task_share)
            if not mine:
                mine, place = _divided(place, chat_share)
                name = "chat" if mine else "general"
            picked.setdefault(name, []).append(self._pick(name, place))
        found: list[Sample] = []
        for name, places in picked.items():
            found += self._weighted(name, places, len(places) / batch)
        return found

    def all(self, most: int | None = None) -> list[Sample]:
        """Return every sequence, or the first ``most`` of a stream; weights sum to 1 over all."""
        found: list[Sample] = []
        for name, tokens in self.tokens.items():
            places = list(range(len(tokens)))[:most]
            found += self._weighted(name, places, self.shares[name])
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


def _divided(position: int, share: float) -> tuple[bool, int]:
    """Tell whether a position falls to the one side of a division, and its place on its side."""
    before, after = (math.floor(p * share + 0.5) for p in (position, position + 1))
    return (True, before) if after > before else (False, position - before)


def is_held_out(sequences: int) -> Tensor:
    """Choose the held-out sequences of a stream, (sequences,) boolean."""
    places = torch.arange(sequences)
    return (places % _HELD_OUT_EVERY == 0) & (places < _HELD_OUT_EVERY * _HELD_OUT_MOST)


def split(
    tokens: dict[str, Tensor],
    weights: dict[str, Tensor],
    shares: dict[str, float],
    seed: int,
    factor: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Batches, Batches]:
    """Split sequences into a training and a held-out part.

    Args:
        tokens: tokens of ``general``, ``task`` and perhaps ``chat``, (sequences, length).
        weights: loss weights of each token but the first, (sequences, length - 1).
        shares: each stream's share; one with share 0 is left out.
        seed: random seed of the order.
        factor: as `Batches.factor`.

    Returns:
        Training and held-out sequences; the same ones if a stream has only one.
    """
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
