"""Integer grids with one scale for a run of weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """Weights ``d · q`` with whole ``q`` in ``[low, high]``, and a float16 ``d`` per block.

    Attributes:
        low: smallest code.
        high: largest code.
        block: number of consecutive weights of a row that share a scale.
    """

    low: int
    high: int
    block: int = 32
