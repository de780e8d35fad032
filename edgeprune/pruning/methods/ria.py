"""RIA, relative importance and activations (Zhang et al., ICLR 2024)."""

import torch
from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``((|W| / Σ_i |W_ij| + |W| / Σ_j |W_ij|) ‖x_j‖^½)²``.

    A weight counts by its share of its row and of its column, so that no channel is emptied.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``second_moment`` (in,) is used.

    Returns:
        (out, in), larger is kept. It is squared to be on the scale of a loss, like the other
        scores.
    """
    size = weight.abs()
    tiny = torch.finfo(size.dtype).tiny
    column_share = size / size.sum(dim=0, keepdim=True).clamp_min(tiny)
    row_share = size / size.sum(dim=1, keepdim=True).clamp_min(tiny)
    return (column_share + row_share).square() * inputs.rms
