"""Initializers in the codes that they use, from which standard operators restore the graph's own.

A packed tensor is stored in a model as perhaps one mask bit for each element, and the elements that
are kept. Without a mask all are; with one, those that are not zero. Of a tensor of codes that uses
few of them, what is kept is numbered from the lowest and stands as one plane after another of its
bits, as in packed GGUF files; other elements stand as they are, with a zero before them, so that
``Gather`` finds it at index 0. The nodes of `edgeprune.formats.onnx.expansion` turn that into the
dense tensor; onnxruntime runs them once, when it makes a session, and keeps the result.
"""

import json
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

_OF_DTYPE = {"float32": np.uint32, "float16": np.uint16, "uint8": np.uint8}


@dataclass(frozen=True)
class Packing:
    """How a tensor was packed.

    Attributes:
        dtype: numpy's name of the elements' type.
        shape: shape of the dense tensor.
        bits: bits per element; 4: two per byte, the first one low.
        zero: the element that a mask leaves out, as an integer.
        stored: bits of a stored number, of a tensor that uses few codes; 0: elements stand as they
            are.
        masked: whether zeros are left out.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int
    zero: int
    stored: int = 0
    masked: bool = True

    def to_json(self) -> str:
        """Return JSON for a property of the kept elements' initializer."""
        return json.dumps(asdict(self))

    @property
    def count(self) -> int:
        """Number of elements of the dense tensor."""
        return math.prod(self.shape) * (2 if self.bits == 4 else 1)

    @property
    def codes(self) -> np.ndarray:
        """Elements by their stored number, (2^stored,) uint8, the lowest first."""
        half = 1 << self.stored >> 1
        signed = np.arange(-half, half)
        return (signed + (self.masked & (signed >= 0)) + self.zero).astype(np.uint8)

    def mask_bytes(self) -> int:
        """Compute the size of the mask."""
        return self.count // 8 if self.masked else 0

    def kept_bytes(self, kept: int) -> int:
        """Compute the size of what is kept, of so many elements."""
        if self.stored:
            return self.stored * -(-kept // 8)
        return -(-(kept + 1) * self.bits // 8)


def read_packing(text: str) -> Packing:
    """Read what `Packing.to_json` wrote.

    Raises:
        ValueError: the text is invalid.
    """
    try:
        packing = Packing(**json.loads(text))
        packing = replace(packing, shape=tuple(packing.shape))
        itemsize = np.dtype(_OF_DTYPE[packing.dtype]).itemsize
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its packing description is invalid: {error}") from None
    numbers = (*packing.shape, packing.zero, packing.bits, packing.stored)
    if not all(type(n) is int and n >= 0 for n in numbers) or type(packing.masked) is not bool:
        raise ValueError("its packing description is invalid")
    of_codes = packing.dtype == "uint8"
    fits = packing.bits in ({4, 8} if of_codes else {8 * itemsize})
    fits = fits and packing.zero < 2**packing.bits
    if packing.stored:  # numbers of codes around the zero
        narrow = fits and of_codes and packing.stored < packing.bits
        half = 1 << packing.stored >> 1 if narrow else 0
        fits = narrow and half <= packing.zero and packing.zero + half < 2**packing.bits
    if not fits or not (packing.stored or packing.masked):
        raise ValueError("its packing description is invalid")
    return packing


def smallest(array: np.ndarray, bits: int, zero: int) -> tuple[Packing, int]:
    """Find the packing that takes the least bytes, and how many.

    Args:
        array: float32, float16 or uint8; a whole number of mask bytes.
        bits: bits per element.
        zero: the element to leave out.
    """
    whole = Packing(array.dtype.name, array.shape, bits, zero)
    elements = _elements(array, whole)
    kept = int(np.count_nonzero(elements != zero))
    fitting = [whole]
    if whole.dtype == "uint8" and elements.size:
        low, high = int(elements.min()) - zero, int(elements.max()) - zero
        for stored in range(1, bits):
            half = 1 << stored >> 1
            for masked in (False, True):
                if -half <= low and high < half + masked:
                    fitting.append(replace(whole, stored=stored, masked=masked))
    sizes = [
        one.mask_bytes() + one.kept_bytes(kept if one.masked else elements.size) for one in fitting
    ]
    best = min(range(len(sizes)), key=sizes.__getitem__)
    return fitting[best], sizes[best]


def pack(array: np.ndarray, packing: Packing) -> tuple[np.ndarray | None, np.ndarray]:
    """Compute mask and kept elements of a dense tensor.

    Args:
        array: float32, float16 or uint8; a whole number of mask bytes.
        packing: one that holds it, as `smallest` finds it.

    Returns:
        The mask, (elements / 8,) uint8, the first in the lowest bit, or None; and what is kept:
        numbers as planes, (stored, bytes, 1) uint8, or a zero followed by elements of the array's
        type.
    """
    elements, mask = _elements(array, packing), None
    if packing.masked:
        keep = elements != packing.zero
        elements, mask = elements[keep], np.packbits(keep, bitorder="little")
    if not packing.stored:
        kept = np.concatenate([np.array([packing.zero], elements.dtype), elements])
        return mask, _joined(kept, packing.bits).view(array.dtype)
    numbers = np.searchsorted(packing.codes, elements).astype(np.uint8)
    planes = [np.packbits(numbers >> bit & 1, bitorder="little") for bit in range(packing.stored)]
    return mask, np.stack(planes)[:, :, None]


def unpack(packing: Packing, mask: np.ndarray | None, kept: np.ndarray) -> np.ndarray:
    """Restore the dense tensor.

    Raises:
        ValueError: mask and elements do not match.
    """
    keep, count = None, packing.count
    if packing.masked:
        if mask is None or mask.size * 8 != packing.count:
            size = 0 if mask is None else mask.size
            raise ValueError(f"{size} mask bytes do not match {packing.count} elements")
        keep = np.unpackbits(mask.reshape(-1), bitorder="little").view(bool)
        count = int(np.count_nonzero(keep))
    if kept.nbytes != packing.kept_bytes(count):
        raise ValueError(f"{kept.nbytes} bytes of elements do not match the {count} that are kept")
    if packing.stored:
        planes = kept.reshape(packing.stored, -1)
        bits = np.unpackbits(planes, axis=1, count=count, bitorder="little")
        powers = np.left_shift(1, np.arange(packing.stored, dtype=np.uint8), dtype=np.uint8)
        elements = packing.codes[(bits * powers[:, None]).sum(axis=0, dtype=np.uint8)]
    else:
        every = kept.reshape(-1).view(_OF_DTYPE[packing.dtype])
        elements = _apart(every, packing.bits)[1 : count + 1]
    if keep is not None:
        sparse = np.full(packing.count, packing.zero, elements.dtype)
        sparse[keep] = elements
        elements = sparse
    return _joined(elements, packing.bits).view(packing.dtype).reshape(packing.shape)


def _elements(array: np.ndarray, packing: Packing) -> np.ndarray:
    return _apart(array.reshape(-1).view(_OF_DTYPE[packing.dtype]), packing.bits)


def _apart(elements: np.ndarray, bits: int) -> np.ndarray:
    """Unpack elements to one number each."""
    return np.stack([elements & 15, elements >> 4], axis=1).reshape(-1) if bits == 4 else elements


def _joined(elements: np.ndarray, bits: int) -> np.ndarray:
    """Pack elements as stored; an odd one is followed by a zero nibble."""
    if bits != 4:
        return elements
    even = np.append(elements, np.zeros(len(elements) % 2, np.uint8))
    return even[::2] | even[1::2] << 4
