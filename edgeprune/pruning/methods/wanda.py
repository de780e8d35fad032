"""Wanda (arXiv 2306.11695): weight magnitude times the norm of its input."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``W² E[x²]``: the loss of removing each if inputs are uncorrelated.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``second_moment`` (in,) is used.

    Returns:
        (out, in), larger is kept. The square of the paper's ``|W| ‖x‖``: ranks are the same, and
        sums over streams mean a summed loss.
    """
    return weight.square() * inputs.second_moment
