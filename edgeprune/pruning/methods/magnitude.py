"""Magnitude pruning (Han et al., arXiv 1506.02626): small weights go first, whatever the data."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """``W²``: ranks as ``|W|`` does, on the scale of a squared loss like the other scores.

    Args:
        weight: (out, in).
        inputs: not used; the score sees no data.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square()
