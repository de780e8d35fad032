"""ISC, the improved saliency criterion (arXiv 2310.09499): OBD's and OBS's saliencies added."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``W² (H_jj + 1 / [H⁻¹]_jj)``: the losses without and with a weight update.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``gram`` is used.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square() * (inputs.second_moment + 1 / inputs.gram.inverse.diagonal())
