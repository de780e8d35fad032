"""OWL (arXiv 2310.05175): blocks with more outliers among their scores keep more weights."""

from edgeprune.planning.allocation import Request, Zeros
from edgeprune.planning.allocation.exact import exact

# M: a score is an outlier above so many times the mean of its block.
OUTLIER = 5.0


def owl(outliers: list[float], sparsity: float, spread: float) -> list[float]:
    """Compute ``s_l = p - (d_l - mean d)`` with d the outlier ratios scaled to [0, 2 λ].

    Args:
        outliers: share of each block's scores that are outliers.
        sparsity: p.
        spread: λ.
    """
    least, width = min(outliers), max(outliers) - min(outliers)
    scaled = [2 * spread * (ratio - least) / width if width else 0.0 for ratio in outliers]
    mean = sum(scaled) / len(scaled)
    return [sparsity - (value - mean) for value in scaled]


def allocate(request: Request) -> Zeros:
    """Allocate sparsity by the outliers of the dense model's blocks."""
    outliers = request.sensitivity().outliers()
    raw = request.of_blocks(owl(outliers, request.sparsity, request.spread))
    return exact(raw, request.sizes, request.sparsity)
