"""Initializers without their zeros, which the graph restores with standard operators.

A packed tensor is stored in a model as one mask bit for each element and the elements that are not
zero, with a zero before them, so that ``Gather`` finds it at index 0. The nodes of `expand` turn
that into the dense tensor; onnxruntime runs them once, when it makes a session, and keeps the
result. 2:4 uses the same form: the six ways to keep two of four need as many bits as four mask
bits, if stored in whole nibbles.
"""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

_OF_DTYPE = {"float32": np.uint32, "float16": np.uint16, "uint8": np.uint8}


@dataclass(frozen=True)
class Packing:
    """How a tensor was packed.

    Attributes:
        dtype: numpy's name of the elements' type.
        shape: shape of the dense tensor.
        bits: bits per element; 4: two per byte, the first one low.
        zero: the element that is left out, as an integer.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int
    zero: int

    def to_json(self) -> str:
        """Return JSON for a property of the kept elements' initializer."""
        return json.dumps(asdict(self))

    @property
    def count(self) -> int:
        """Number of elements of the dense tensor."""
        return math.prod(self.shape) * (2 if self.bits == 4 else 1)


def read_packing(text: str) -> Packing:
    """Read what `Packing.to_json` wrote.

    Raises:
        ValueError: the text is invalid.
    """
    try:
        packing = Packing(**json.loads(text))
        shape = tuple(packing.shape)
        whole = all(type(n) is int and n >= 0 for n in (*shape, packing.zero, packing.bits))
        itemsize = np.dtype(_OF_DTYPE[packing.dtype]).itemsize
        fits = packing.bits in ({4, 8} if packing.dtype == "uint8" else {8 * itemsize})
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its packing description is invalid: {error}") from None
    if not whole or not fits or not 0 <= packing.zero < 2**packing.bits:
        raise ValueError("its packing description is invalid")
    return Packing(packing.dtype, shape, packing.bits, packing.zero)


def pack(array: np.ndarray, bits: int, zero: int) -> tuple[Packing, np.ndarray, np.ndarray]:
    """Compute mask and kept elements of a dense tensor.

    Args:
        array: float32, float16 or uint8; a whole number of mask bytes.
        bits: bits per element.
        zero: the element to leave out.

    Returns:
        The packing description; the mask, (elements / 8,) uint8, the first in the lowest bit; and a
        zero
        followed by what is kept, of the array's type.
    """
    packing = Packing(array.dtype.name, array.shape, bits, zero)
    elements = _apart(array.reshape(-1).view(_OF_DTYPE[packing.dtype]), bits)
    keep = elements != zero
    kept = np.concatenate([np.array([zero], elements.dtype), elements[keep]])
    return packing, np.packbits(keep, bitorder="little"), _joined(kept, bits).view(array.dtype)


def unpack(packing: Packing, mask: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Restore the dense tensor.

    Raises:
        ValueError: mask and elements do not match.
    """
    if mask.size * 8 != packing.count:
        raise ValueError(f"{mask.size} mask bytes do not match {packing.count} elements")
    keep = np.unpackbits(mask.reshape(-1), bitorder="little").view(bool)
    stored = _apart(kept.reshape(-1).view(_OF_DTYPE[packing.dtype]), packing.bits)
    count = int(np.count_nonzero(keep))
    if not count < len(stored) <= count + 2:
        raise ValueError(f"{len(stored)} elements do not match {count} mask bits")
    elements = np.full(packing.count, packing.zero, stored.dtype)
    elements[keep] = stored[1 : count + 1]
    return _joined(elements, packing.bits).view(packing.dtype).reshape(packing.shape)


def packed_bytes(array: np.ndarray, bits: int, kept: int) -> int:
    """Compute the size of a packed tensor in bytes."""
    count = array.size * (2 if bits == 4 else 1)
    return count // 8 + -(-(kept + 1) * bits // 8)


def _apart(elements: np.ndarray, bits: int) -> np.ndarray:
    """Unpack elements to one number each."""
    return np.stack([elements & 15, elements >> 4], axis=1).reshape(-1) if bits == 4 else elements


def _joined(elements: np.ndarray, bits: int) -> np.ndarray:
    """Pack elements as stored; an odd one is followed by a zero nibble."""
    if bits != 4:
        return elements
    even = np.append(elements, np.zeros(len(elements) % 2, np.uint8))
    return even[::2] | even[1::2] << 4
