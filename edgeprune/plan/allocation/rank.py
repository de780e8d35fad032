"""Rank-linear allocation (arXiv 2310.09499): the most sensitive matrix keeps the most."""

from edgeprune.plan.allocation.atp import ramp


def by_rank(sensitivity: dict[str, float], sparsity: float, spread: float) -> dict[str, float]:
    """Sparsity ``p - a + 2 a r / (n - 1)``, r the rank by falling sensitivity.

    The paper's sensitivity is a mean Hessian trace; any will do, only its order counts.

    Args:
        sensitivity: of each matrix.
        sparsity: p.
        spread: a.
    """
    order = sorted(sensitivity, key=lambda name: sensitivity[name], reverse=True)
    return dict(zip(order, ramp(len(order), sparsity, spread), strict=True))
