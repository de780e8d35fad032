"""One tensor without its zeros: scales, a bit mask, and the codes of the kept weights.

At 50 % zeros an 8-bit tensor takes 5.5 bits a weight instead of 8.5, a 4-bit one 3.5 instead
of 4.5. Unpacking restores the exact bytes.
"""

import numpy as np

from edgeprune.formats.codes import CODES, block_bytes


def packable(kind: str) -> bool:
    """Tell whether tensors of a type can be packed: the type must hold an exact zero."""
    return kind in CODES


def packed_size(kind: str, weights: int, kept: int) -> int:
    """Compute the bytes of a packed tensor.

    Args:
        kind: ggml's name of its type.
        weights: number of weights.
        kept: number of weights whose code is not zero's.
    """
    per_block, size = block_bytes(kind)
    bits = CODES[kind].bits
    side = weights // per_block * (size * 8 - per_block * bits) // 8
    return side + -(-weights // 8) + _codes_size(bits, kept)


def count_kept(kind: str, data: np.ndarray) -> int:
    """Count codes other than zero's in the bytes of a tensor."""
    codes = CODES[kind]
    return int(np.count_nonzero(codes.split(_blocks(kind, data))[1] != codes.zero))


def pack(kind: str, data: np.ndarray) -> np.ndarray:
    """Pack a tensor: scales, then the mask (one bit per weight, lowest first), then codes.

    Codes of whole bytes stand one after another, others as one bit plane after another.

    Args:
        kind: ggml's name of its type.
        data: (bytes,) uint8.

    Returns:
        (bytes,) uint8.
    """
    codes = CODES[kind]
    side, all_codes = codes.split(_blocks(kind, data))
    mask = all_codes != codes.zero
    kept = all_codes[mask]
    if codes.bits % 8 == 0:
        planes = [np.ascontiguousarray(kept).view(np.uint8)]
    else:
        planes = [np.packbits(kept >> i & 1, bitorder="little") for i in range(codes.bits)]
    bits = np.packbits(mask.reshape(-1), bitorder="little")
    return np.concatenate([np.ascontiguousarray(side).reshape(-1), bits, *planes])


def unpack(kind: str, packed: np.ndarray, weights: int) -> np.ndarray:
    """Restore the bytes of a tensor.

    Args:
        kind: ggml's name of its type.
        packed: the bytes from `pack`.
        weights: number of weights.

    Raises:
        ValueError: the sizes do not match.
    """
    codes = CODES[kind]
    per_block, size = block_bytes(kind)
    blocks = weights // per_block
    side_bytes = (size * 8 - per_block * codes.bits) // 8
    mask_start = blocks * side_bytes
    mask_end = mask_start + -(-weights // 8)
    if len(packed) < mask_end:
        raise ValueError(f"{len(packed)} packed bytes cannot hold {weights} weights")
    mask = np.unpackbits(packed[mask_start:mask_end], count=weights, bitorder="little").view(bool)
    kept = int(np.count_nonzero(mask))
    if len(packed) != mask_end + _codes_size(codes.bits, kept):
        raise ValueError(
            f"{len(packed)} packed bytes do not match {kept} kept of {weights} weights"
        )
    if codes.bits % 8 == 0:
        values = packed[mask_end:].view(f"<u{codes.bits // 8}")
    else:
        values = np.zeros(kept, np.uint8)
        for i, plane in enumerate(packed[mask_end:].reshape(codes.bits, -1)):
            values |= np.unpackbits(plane, count=kept, bitorder="little") << i
    all_codes = np.full(weights, codes.zero, values.dtype)
    all_codes[mask] = values
    side = packed[:mask_start].reshape(blocks, side_bytes)
    return codes.join(side, all_codes.reshape(blocks, per_block)).reshape(-1)


def _codes_size(bits: int, kept: int) -> int:
    return kept * bits // 8 if bits % 8 == 0 else bits * -(-kept // 8)


def _blocks(kind: str, data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, block_bytes(kind)[1])
