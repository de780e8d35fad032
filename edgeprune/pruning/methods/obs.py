"""The optimal brain surgeon's saliency (Hassibi & Stork 1992), row by row as in SparseGPT."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """``W² / [H⁻¹]_jj``: loss of removing one weight when the others of its row may repair it.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``gram`` is used.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square() / inputs.gram.inverse.diagonal()
