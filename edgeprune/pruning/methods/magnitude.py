"""Magnitude pruning (Han et al., arXiv 1506.02626): prunes the smallest weights, without data."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``W²``: ranks as ``|W|`` does, on the scale of a squared loss.

    Args:
        weight: (out, in).
        inputs: unused; the score needs no data.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square()
