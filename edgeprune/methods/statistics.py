"""What the calibration data says about the input of one linear layer."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputStatistics:
    """Moments of a linear layer's input over the tokens of one stream.

    Attributes:
        second_moment: (in,) float32, mean over tokens of ``x_j²``.
        tokens: how many tokens the mean is over.
    """

    second_moment: Tensor
    tokens: int

    @property
    def rms(self) -> Tensor:
        """(in,) root mean square of each channel, ``a[j]`` in DESIGN.md."""
        return self.second_moment.sqrt()


class Accumulator:
    """Running sums of a layer's input; float32 whatever the compute type.

    Args:
        channels: width of the layer's input.
        device: where the sums live.
    """

    def __init__(self, channels: int, device: torch.device):
        self._sum = torch.zeros(channels, dtype=torch.float32, device=device)
        self._tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of some tokens, (..., channels)."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        self._sum += rows.square().sum(dim=0)
        self._tokens += rows.shape[0]

    def statistics(self) -> InputStatistics:
        """The moments so far."""
        return InputStatistics(self._sum / max(self._tokens, 1), self._tokens)


def mix(general: InputStatistics, task: InputStatistics, task_share: float) -> InputStatistics:
    """One set of moments for both streams: ``(1-λ) G/tr(G) + λ T/tr(T)``.

    Dividing by the trace first keeps a louder stream from winning by its scale (DESIGN.md).
    """
    return InputStatistics(
        (1 - task_share) * _unit_trace(general.second_moment)
        + task_share * _unit_trace(task.second_moment),
        general.tokens + task.tokens,
    )


def _unit_trace(moment: Tensor) -> Tensor:
    return moment / moment.sum().clamp_min(torch.finfo(moment.dtype).tiny)
