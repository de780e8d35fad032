"""Rank-linear allocation (arXiv 2310.09499): the most sensitive matrix keeps the most."""

from edgeprune.planning.allocation import Request, Zeros
from edgeprune.planning.allocation.atp import ramp
from edgeprune.planning.allocation.exact import exact


def by_rank(sensitivity: dict[str, float], sparsity: float, spread: float) -> dict[str, float]:
    """Compute sparsity ``p - a + 2 a r / (n - 1)``, r the rank by falling sensitivity.

    The paper's sensitivity is a mean Hessian trace; any measure works, since only the order counts.

    Args:
        sensitivity: sensitivity of each matrix.
        sparsity: p.
        spread: a.
    """
    order = sorted(sensitivity, key=lambda name: sensitivity[name], reverse=True)
    return dict(zip(order, ramp(len(order), sparsity, spread), strict=True))


def allocate(request: Request) -> Zeros:
    """Allocate sparsity by the rise of the loss when one matrix alone is pruned."""
    losses = request.sensitivity().losses(request.uniform)
    return exact(by_rank(losses, request.sparsity, request.spread), request.sizes, request.sparsity)
