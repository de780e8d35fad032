"""ISC, improved saliency criterion (arXiv 2310.09499): first and last word of the OBS family."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """``W² (H_jj + 1 / [H⁻¹]_jj)``: loss without and with repair by the other weights, added.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``gram`` is used.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square() * (inputs.second_moment + 1 / inputs.gram.inverse.diagonal())
