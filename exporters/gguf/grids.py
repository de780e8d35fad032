"""Encode ggml's types that are plain integer grids, exactly, from codes and scales.

`edgeprune.quantization` chooses the codes; this module only packs them.
"""

import numpy as np
from gguf import GGMLQuantizationType

from edgeprune.formats.codes import CODES
from edgeprune.planning.grid import FILE_BLOCK, Grid

# The types of which the rounding can be chosen; blocks of 32 with a float16 scale.
GRIDS = {"Q8_0": Grid(-127, 127), "Q5_0": Grid(-16, 15), "Q4_0": Grid(-8, 7)}


def on_grid(
    values: np.ndarray, scales: np.ndarray, kind: GGMLQuantizationType, grid: Grid | None = None
) -> np.ndarray:
    """Pack values that are on a grid.

    Args:
        values: (rows, columns) float32, within half a step of the grid.
        scales: (rows, columns / block), each a float16 number; 0 where a block is all zero.
        kind: a type of `GRIDS`.
        grid: the codes that are used; None: all of the type.

    Returns:
        (rows, bytes) uint8.
    """
    grid = grid or GRIDS[kind.name]
    blocks = values.reshape(-1, FILE_BLOCK)
    scale = scales.repeat(grid.block // FILE_BLOCK, axis=-1).reshape(-1, 1)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.rint(blocks * inverse).clip(grid.low, grid.high).astype(np.int8)
    kind_codes = CODES[kind.name]
    side = scale.astype(np.float16).view(np.uint8)
    return kind_codes.join(side, (codes + kind_codes.zero).view(np.uint8)).reshape(len(values), -1)
