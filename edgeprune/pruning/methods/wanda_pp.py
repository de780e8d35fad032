"""Wanda++ (arXiv 2503.04992): Wanda with the gradient of the block's own output."""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics

# α of the paper.
_GRADIENT_WEIGHT = 100.0


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``((α G + ‖x_j‖) |W|)²``, ``G`` the RMS of ``∂‖block(X)‖₂ / ∂W``.

    Args:
        weight: (out, in).
        inputs: ``second_moment`` (in,) and ``gradient`` (out, in) of the block are used, both per
            token: dividing ``G²`` by the sequence length changes no rank.

    Returns:
        (out, in), larger is kept.
    """
    return ((_GRADIENT_WEIGHT * inputs.gradient.sqrt() + inputs.rms) * weight).square()
