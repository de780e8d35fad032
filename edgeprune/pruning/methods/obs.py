"""The optimal brain surgeon's saliency (Hassibi & Stork 1992), row by row as in SparseGPT."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``W² / [H⁻¹]_jj``: the loss of removing one if its row is updated.

    Args:
        weight: (out, in).
        inputs: statistics of this layer's input; ``gram`` is used.

    Returns:
        (out, in), larger is kept.
    """
    return weight.square() / inputs.gram.inverse.diagonal()
