"""Masks that keep two weights of every four: one of six ways a group, three groups in a byte.

That is 2/3 of a bit a weight; the six ways would fit 0.65.
"""

import numpy as np

GROUP = 4
_GROUPS, _WAYS = 3, 6  # groups of a byte, ways of a group
# The ways as bits, the first weight lowest, in the order of their numbers; and by the bits of what
# is not zero, the number of the first way that keeps all of it.
_KEPT = np.array([0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100], np.uint8)
_COVERING = np.array([np.argmax((_KEPT & bits) == bits) for bits in range(16)], np.uint8)
_POWERS = np.array([1, _WAYS, _WAYS**2], np.uint8)


def mask_bytes(weights: int) -> int:
    """Compute the size of a mask."""
    return -(-weights // GROUP // _GROUPS)


def pack(nonzero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack a mask.

    Args:
        nonzero: (weights,) bool, at most two of every four.

    Returns:
        (bytes,) uint8; and what it keeps, (weights,) bool: of a group with fewer that are not zero,
        zeros as well.
    """
    bits = np.packbits(nonzero.reshape(-1, GROUP), axis=1, bitorder="little")[:, 0]
    ways = _COVERING[bits]
    filled = np.append(ways, np.zeros(-len(ways) % _GROUPS, np.uint8))
    packed = (filled.reshape(-1, _GROUPS) * _POWERS).sum(axis=1, dtype=np.uint8)
    return packed, _mask(ways)


def unpack(packed: np.ndarray, weights: int) -> np.ndarray:
    """Restore a mask, (weights,) bool.

    Raises:
        ValueError: it has ways that there are not.
    """
    if packed.size and packed.max() >= _WAYS**_GROUPS:
        raise ValueError(f"the byte {packed.max()} is no mask of two in four")
    ways = (packed[:, None] // _POWERS % _WAYS).reshape(-1)
    return _mask(ways[: weights // GROUP])


def _mask(ways: np.ndarray) -> np.ndarray:
    kept = np.unpackbits(_KEPT[ways][:, None], axis=1, count=GROUP, bitorder="little")
    return kept.reshape(-1).view(bool)
