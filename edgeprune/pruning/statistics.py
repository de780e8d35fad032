"""Statistics of the input of one linear layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.pruning.gram import Gram

# Columns of a Gram matrix summed at once: small enough to skip half of it, large enough to be fast.
_STRIP = 256


@dataclass(frozen=True)
class InputStatistics:
    """Moments of a linear layer's input over the tokens of one stream.

    Attributes:
        second_moment: (in,) float32, weighted mean over tokens of ``x_j²``.
        tokens: sum of the tokens' weights; the number of tokens if all weights are 1.
        gram: ``E[x xᵀ]``, if a method needs it.
        gradient: (out, in) float32, mean squared gradient of the weight, if a method needs
            it; unlike the rest it belongs to one matrix, not to every layer that reads the input.
    """

    second_moment: Tensor
    tokens: float
    # Only there where the method's line in the registry asks for it.
    gram: Gram = None  # type: ignore[assignment]
    gradient: Tensor = None  # type: ignore[assignment]

    @property
    def rms(self) -> Tensor:
        """Return the root mean square of each channel, (in,); ``a[j]`` in docs/design.md."""
        return self.second_moment.sqrt()

    def reordered(self, order: Tensor) -> "InputStatistics":
        """Return statistics with channels reordered, (in,) old channel for each new position."""
        return InputStatistics(
            self.second_moment[order],
            self.tokens,
            self.gram if self.gram is None else Gram(self.gram.matrix[order][:, order]),
            self.gradient if self.gradient is None else self.gradient[:, order],
        )


class Accumulator:
    """Running sums of a layer's input.

    On the CPU sums are float64, so that the order of summation (batches, processes) does not change
    the float32 result; on a GPU they are float32.

    Args:
        channels: width of the layer's input.
        device: device that holds the sums.
        gram: whether to sum ``x xᵀ`` as well.
    """

    def __init__(self, channels: int, device: torch.device, gram: bool = False):
        wide = torch.float64 if device.type == "cpu" else torch.float32
        shape = (channels, channels) if gram else (channels,)
        self._sum = torch.zeros(shape, dtype=wide, device=device)
        self._tokens = torch.zeros((), dtype=wide, device=device)

    def add(self, inputs: Tensor, weights: Tensor) -> None:
        """Add the inputs of some tokens.

        Args:
            inputs: (tokens, channels).
            weights: (tokens,) weight of each token.
        """
        self._tokens += weights.sum()
        if self._sum.dim() == 1:
            self._sum += weights @ inputs.float().square()
            return
        rows = inputs * weights.float().sqrt()[:, None]  # one pass, float32 by promotion
        for start in range(0, rows.shape[1], _STRIP):  # the lower triangle follows by symmetry
            strip = slice(start, start + _STRIP)
            self._sum[strip, start:] += rows[:, strip].T @ rows[:, start:]

    def sums(self) -> list[Tensor]:
        """Return the sums, to be added up over processes in place."""
        return [self._sum, self._tokens]

    def statistics(self) -> InputStatistics:
        """Return the moments so far."""
        mean = (self._sum / self._tokens.clamp_min(1e-12)).float()
        tokens = self._tokens.item()
        if mean.dim() == 2:
            mean = mean.triu() + mean.triu(1).T
            return InputStatistics(mean.diagonal().clone(), tokens, Gram(mean))
        return InputStatistics(mean, tokens)


def mix(general: InputStatistics, task: InputStatistics, task_share: float) -> InputStatistics:
    """Join the moments of both streams: ``(1-λ) G/tr(G) + λ T/tr(T)``.

    Dividing by the trace keeps the stream with larger activations from dominating (docs/design.md).
    """
    shares = [
        (share / s.second_moment.sum().clamp_min(torch.finfo(torch.float32).tiny), s)
        for share, s in ((1 - task_share, general), (task_share, task))
    ]

    def joined(of: Callable[[InputStatistics], Tensor]) -> Tensor:
        (a, first), (b, second) = shares
        return a * of(first) + b * of(second)

    return InputStatistics(
        joined(lambda s: s.second_moment),
        general.tokens + task.tokens,
        Gram(joined(lambda s: s.gram.matrix)) if general.gram is not None else general.gram,
        joined(lambda s: s.gradient) if general.gradient is not None else general.gradient,
    )
