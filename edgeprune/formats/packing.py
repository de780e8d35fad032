"""One tensor in the codes that it uses: scales, perhaps a bit mask, and the codes, at their width.

At 50 % zeros an 8-bit tensor takes 5.5 bits a weight instead of 8.5, a 4-bit one 3.5 instead of
4.5, as one with 3-bit codes does. Unpacking restores the exact bytes.
"""

import numpy as np

from edgeprune.formats import two_of_four
from edgeprune.formats.codes import CODES, block_bytes
from edgeprune.formats.forms import Form, codes_size, side_bytes


def packable(kind: str) -> bool:
    """Tell whether tensors of a type can be packed: the type must hold an exact zero."""
    return kind in CODES


def pack(kind: str, data: np.ndarray, form: Form) -> np.ndarray:
    """Pack a tensor: scales, then the mask (one bit per weight, lowest first), then codes.

    A mask of two in four stands as `edgeprune.formats.two_of_four` says. Codes of whole bytes stand
    one after another, others as one bit plane after another.

    Args:
        kind: ggml's name of its type.
        data: (bytes,) uint8.
        form: one that holds it, see `edgeprune.formats.forms.find`.

    Returns:
        (bytes,) uint8.
    """
    own = CODES[kind]
    side, codes = own.split(data.reshape(-1, block_bytes(kind)[1]))
    parts, kept = [np.ascontiguousarray(side[:: form.group]).reshape(-1)], codes.reshape(-1)
    if form.masked:
        mask = kept != own.zero
        if form.two_of_four:
            packed, mask = two_of_four.pack(mask)
        else:
            packed = np.packbits(mask, bitorder="little")
        parts.append(packed)
        kept = kept[mask]
    index = form.to_index(kind, kept)
    if form.bits % 8 == 0:
        return np.concatenate([*parts, np.ascontiguousarray(index).view(np.uint8)])
    planes = [np.packbits(index >> bit & 1, bitorder="little") for bit in range(form.bits)]
    return np.concatenate([*parts, *planes])


def unpack(kind: str, packed: np.ndarray, weights: int, form: Form) -> np.ndarray:
    """Restore the bytes of a tensor.

    Args:
        kind: ggml's name of its type.
        packed: the bytes from `pack`.
        weights: number of weights.
        form: as it was packed.

    Raises:
        ValueError: the sizes do not match.
    """
    own = CODES[kind]
    per_block = block_bytes(kind)[0]
    blocks = weights // per_block
    mask_start = blocks // form.group * side_bytes(kind)
    start = mask_start + form.mask_bytes(weights)
    if len(packed) < start:
        raise ValueError(f"{len(packed)} packed bytes cannot hold {weights} weights")
    mask, kept = None, weights
    if form.masked:
        bits = packed[mask_start:start]
        if form.two_of_four:
            mask = two_of_four.unpack(bits, weights)
        else:
            mask = np.unpackbits(bits, count=weights, bitorder="little").view(bool)
        kept = int(np.count_nonzero(mask))
    if len(packed) != start + codes_size(form.bits, kept):
        raise ValueError(
            f"{len(packed)} packed bytes do not match {kept} kept of {weights} weights"
        )
    codes = form.to_codes(kind, _index(packed[start:], form.bits, kept))
    if mask is not None:
        every = np.full(weights, own.zero, codes.dtype)
        every[mask] = codes
        codes = every
    side = packed[:mask_start].reshape(blocks // form.group, side_bytes(kind))
    return own.join(side.repeat(form.group, axis=0), codes.reshape(blocks, per_block)).reshape(-1)


def _index(planes: np.ndarray, bits: int, kept: int) -> np.ndarray:
    if bits % 8 == 0:
        return planes.view(f"<u{bits // 8}")
    values = np.zeros(kept, np.uint8)
    for bit, plane in enumerate(planes.reshape(bits, -1)):
        values |= np.unpackbits(plane, count=kept, bitorder="little") << bit
    return values
