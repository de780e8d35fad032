"""ATP (arXiv 2502.14770): sparsity rises along a straight line over depth."""

from edgeprune.planning.allocation import Request, Zeros
from edgeprune.planning.allocation.exact import exact


def ramp(steps: int, sparsity: float, spread: float) -> list[float]:
    """Compute ``s_l = p - a + 2 a l / (L - 1)``: early blocks keep more.

    The paper's slope is ``β = 2 a / (L - 1)``.

    Args:
        steps: number of blocks, L.
        sparsity: p.
        spread: a.
    """
    if steps == 1:
        return [sparsity]
    return [sparsity - spread + 2 * spread * step / (steps - 1) for step in range(steps)]


def allocate(request: Request) -> Zeros:
    """Allocate sparsity as a ramp over the blocks."""
    raw = request.of_blocks(ramp(len(request.blocks), request.sparsity, request.spread))
    return exact(raw, request.sizes, request.sparsity)
