"""Which sequences a training step sees: a function of the step alone, so that a run can go on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgeprune.calibration.streams import Stream

# One sequence in so many of each stream is not trained on, up to so many: judging takes time.
_HELD_OUT_EVERY, _HELD_OUT_MOST = 10, 6


@dataclass(frozen=True)
class Batches:
    """Sequences of both streams and how much their tokens count.

    Attributes:
        tokens: (sequences, length) by stream.
        weights: of predicting the next token from each position, (sequences, length - 1).
        shares: of each stream in the loss.
        seed: of the order.
    """

    tokens: dict[str, Tensor]
    weights: dict[str, Tensor]
    shares: dict[str, float]
    seed: int

    def step(self, number: int, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Sequences of one step with their tokens' weights, which sum to 1 over the step.

        Streams take turns from one sequence to the next, across steps; every sequence of a stream
        is seen once before any is seen again.

        Args:
            number: of the step, from 0.
            batch: sequences in all.
        """
        names = list(self.tokens)
        picked: dict[str, list[int]] = {}
        for position in range(number * batch, (number + 1) * batch):
            turn, place = position % len(names), position // len(names)
            picked.setdefault(names[turn], []).append(self._pick(names[turn], place))
        whole = sum(self.shares[name] for name in picked)
        found = []
        for name, places in picked.items():
            chosen = self.weights[name][places]
            chosen = self.shares[name] / whole * chosen / chosen.sum().clamp_min(1e-9)
            found += list(zip(self.tokens[name][places], chosen, strict=True))
        return found

    def all(self) -> list[tuple[Tensor, Tensor]]:
        """Every sequence once; weights sum to 1 over all."""
        found = []
        for name, tokens in self.tokens.items():
            weights = self.shares[name] * self.weights[name] / self.weights[name].sum()
            found += list(zip(tokens, weights, strict=True))
        return found

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
    streams: "dict[str, Stream]", task_share: float, answer_weight: float, seed: int
) -> tuple[Batches, Batches]:
    """What is trained on, and a held-out slice to judge by.

    Args:
        streams: ``general`` and ``task``.
        task_share: λ, the task stream's share of the loss; a stream with none is left out.
        answer_weight: of positions that predict a token of the task's answers; others weigh 1.
        seed: of the order.

    Returns:
        Training and held-out sequences; the same ones if a stream has but one.
    """
    shares = {"general": 1 - task_share, "task": task_share}
    sides: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    weights: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name in (name for name, share in shares.items() if share):
        stream = streams[name]
        held = is_held_out(len(stream.tokens))
        masks = (held, held) if len(stream.tokens) == 1 else (~held, held)
        counted = torch.ones(stream.tokens.shape)[:, 1:]
        if name == "task":
            counted[stream.answers[:, 1:]] = answer_weight
        for side, mask in enumerate(masks):
            sides[side][name] = stream.tokens[mask]
            weights[side][name] = counted[mask]
    train, held_out = (Batches(s, w, shares, seed) for s, w in zip(sides, weights, strict=True))
    return train, held_out
