"""D-Pruner's dual score (arXiv 2405.06275): importance to the layer plus importance to the task.

The paper's second term is a first- and second-order expansion of the domain loss; here it is the
diagonal Fisher information, which is its second-order part near a minimum.
"""

from torch import Tensor

from edgeprune.pruning.statistics import InputStatistics


def score(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Score weights by ``W² (H_jj / mean(H) + F_ij / mean(F))``.

    Args:
        weight: (out, in).
        inputs: ``second_moment`` (in,), ``H``, and ``gradient`` (out, in), ``F``: mean squared
            gradient of the stream's loss, of the task's on answer tokens only.

    Returns:
        (out, in), larger is kept.
    """
    local = inputs.second_moment / inputs.second_moment.mean().clamp_min(1e-30)
    global_ = inputs.gradient / inputs.gradient.mean().clamp_min(1e-30)
    return weight.square() * (local + global_)
