"""Split quantised blocks into codes and scales, for types that hold an exact zero.

A block of such a type is some bytes shared by all its weights (scales) and one integer code per
weight, of which one value means zero. Layouts: ggml-common.h; order within a block is that of
the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Array = np.ndarray


@dataclass(frozen=True)
class Codes:
    """How to split the blocks of one type.

    Attributes:
        bits: bits per code.
        zero: the code of a weight that is exactly zero.
        split: maps (blocks, bytes) to the bytes of scales, (blocks, n), and codes, (blocks,
            weights).
        join: the inverse of ``split``.
    """

    bits: int
    zero: int
    split: Callable[[Array], tuple[Array, Array]]
    join: Callable[[Array, Array], Array]


def _plain(dtype: str, bits: int) -> Codes:
    """Split plain numbers: one code per weight and no scales."""
    return Codes(
        bits,
        0,
        lambda blocks: (blocks[:, :0], blocks.view(dtype)),
        lambda _side, codes: codes.view(np.uint8),
    )


def _halves(nibbles: Array) -> Array:
    """Split nibbles: the low ones are the first half of the weights, the high ones the second."""
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=1)


def _nibbles(codes: Array) -> Array:
    half = codes.shape[1] // 2
    return codes[:, :half] | codes[:, half:] << 4


def _scale_and_nibbles(scale_bytes: int, zero: int) -> Codes:
    return Codes(
        4,
        zero,
        lambda blocks: (blocks[:, :scale_bytes], _halves(blocks[:, scale_bytes:])),
        lambda side, codes: np.concatenate([side, _nibbles(codes)], axis=1),
    )


def _split_q5_0(blocks: Array) -> tuple[Array, Array]:
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    return blocks[:, :2], _halves(blocks[:, 6:]) | fifth << 4


def _join_q5_0(side: Array, codes: Array) -> Array:
    fifth = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([side, fifth, _nibbles(codes & 15)], axis=1)


def _pairs(packed: Array) -> Array:
    """Unpack (n, 2 · 32) bytes, each four two-bit numbers 32 weights apart, to (n, 2 · 128)."""
    parts = packed.reshape(len(packed), 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return parts.reshape(len(packed), 256)


def _pack_pairs(numbers: Array) -> Array:
    parts = numbers.reshape(len(numbers), 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(parts, axis=2).reshape(len(numbers), 64)


def _split_q6_k(blocks: Array) -> tuple[Array, Array]:
    low = blocks[:, :128].reshape(-1, 64)
    low = _halves(low).reshape(len(blocks), 256)
    return blocks[:, 192:], low | _pairs(blocks[:, 128:192]) << 4


def _join_q6_k(side: Array, codes: Array) -> Array:
    low = _nibbles((codes & 15).reshape(-1, 128)).reshape(len(codes), 128)
    return np.concatenate([low, _pack_pairs(codes >> 4), side], axis=1)


def _split_q3_k(blocks: Array) -> tuple[Array, Array]:
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks[:, None, :32] >> shifts & 1).reshape(len(blocks), 256)
    return blocks[:, 96:], _pairs(blocks[:, 32:96]) | high << 2


def _join_q3_k(side: Array, codes: Array) -> Array:
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (codes >> 2).reshape(len(codes), 8, 32) << shifts
    masks = np.bitwise_or.reduce(high, axis=1)
    return np.concatenate([masks, _pack_pairs(codes & 3), side], axis=1)


CODES = {
    "F32": _plain("<u4", 32),
    "F16": _plain("<u2", 16),
    "BF16": _plain("<u2", 16),
    "Q8_0": Codes(
        8, 0,
        lambda blocks: (blocks[:, :2], blocks[:, 2:]),
        lambda side, codes: np.concatenate([side, codes], axis=1),
    ),
    "Q6_K": Codes(6, 32, _split_q6_k, _join_q6_k),
    "Q5_0": Codes(5, 16, _split_q5_0, _join_q5_0),
    "Q4_0": _scale_and_nibbles(2, zero=8),
    "MXFP4": _scale_and_nibbles(1, zero=0),
    "Q3_K": Codes(3, 4, _split_q3_k, _join_q3_k),
}  # fmt: skip


_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def nonzero(kind: str, data: Array) -> Array | None:
    """Find the non-zero weights of a tensor from its bytes, without dequantising.

    Args:
        kind: ggml's name of its type.
        data: the tensor's bytes, flat.

    Returns:
        (weights,) boolean; None for types whose bytes do not show zeros directly.

    Raises:
        ValueError: some weights are NaN or infinite.
    """
    if kind in _EXPONENTS:
        bits, exponent = data.view(f"<u{CODES[kind].bits // 8}"), _EXPONENTS[kind]
        if (bits & exponent == exponent).any():
            raise ValueError("values are NaN or infinite")
        return bits << 1 != 0  # but for the sign
    if kind not in ("Q8_0", "Q4_0"):
        return None
    blocks = data.reshape(-1, block_bytes(kind)[1])
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16)
    if not np.isfinite(scales).all():
        raise ValueError("scales are NaN or infinite")
    found = np.empty((len(blocks), 32), bool)
    if kind == "Q8_0":
        np.not_equal(blocks[:, 2:], 0, out=found)
    else:
        np.not_equal(blocks[:, 2:] & 0x0F, 0x08, out=found[:, :16])
        np.not_equal(blocks[:, 2:] & 0xF0, 0x80, out=found[:, 16:])
    empty = scales[:, 0] == 0
    if empty.any():
        found[empty] = False
    return found.reshape(-1)


def block_bytes(kind: str) -> tuple[int, int]:
    """Return weights and bytes per block of a type; one weight for plain numbers."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
