"""Sparsities as whole numbers of zeros that add up to exactly the target."""

import math
from collections.abc import Callable

# A matrix that loses nearly all its weights stops working: the rest takes over what it can't.
MOST = 0.95
# Enough to find an offset to the last bit of a double.
_HALVINGS = 64


def most(sparsity: float) -> float:
    """Return the largest sparsity of one matrix when ``sparsity`` is asked of all."""
    return max(MOST, sparsity)


def limit(size: int, sparsity: float) -> int:
    """Return the largest number of zeros of a matrix of ``size`` weights."""
    return math.ceil(most(sparsity) * size)


def exact(raw: dict[str, float], sizes: dict[str, int], sparsity: float) -> dict[str, int]:
    """Compute zeros per matrix that add up to ``round(sparsity · Σ size)``.

    ``z_i = size_i · clip(raw_i + t, 0, most)`` with the one offset t that meets the total, then
    rounded by largest remainders (Hamilton's method): every z_i is one of the two whole numbers
    around it.

    Args:
        raw: desired sparsity of each matrix.
        sizes: number of weights of each matrix.
        sparsity: sparsity over all matrices, in [0, 1].
    """
    target, ceiling = round(sparsity * sum(sizes.values())), most(sparsity)

    def shifted(offset: float) -> dict[str, float]:
        return {name: size * min(max(raw[name] + offset, 0.0), ceiling) for name, size in
                sizes.items()}  # fmt: skip

    real = shifted(_offset(lambda t: sum(shifted(t).values()) - target, raw))
    zeros = {name: math.floor(value) for name, value in real.items()}
    left = target - sum(zeros.values())
    by_remainder = sorted(real, key=lambda name: zeros[name] - real[name])
    for name in by_remainder[:left]:
        zeros[name] += 1
    return zeros


def _offset(excess: Callable[[float], float], raw: dict[str, float]) -> float:
    """Find where a non-decreasing function crosses zero; 0 is tried first."""
    high = 1 + max(map(abs, raw.values()))
    low = -high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if excess(middle) < 0:
            low = middle
        else:
            high = middle
    return high
