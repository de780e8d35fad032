"""How the codes of a packed tensor stand: how wide, with a mask or not, with how many scales.

Ggml's plain types have a code for every weight, all equally wide, and a scale for 32 of them. Of a
tensor that uses few of the codes, a packed file holds those alone, at their own width; where
neighbouring blocks have the same scale, it stands there once. What a tensor uses is found in its
bytes, whoever wrote them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.formats import two_of_four
from edgeprune.formats.codes import CODES, block_bytes

# Types with forms narrower than their own: one float16 scale, then codes around the code of zero.
_NARROW = ("Q4_0", "Q8_0")
_GROUPS = (4, 2, 1)
_TEXT = re.compile(r"([1-9]|[1-3][0-9])(\+mask|\+2:4)?(?:/(64|128))?")
_BLOCK = 32


@dataclass(frozen=True)
class Form:
    """How a packed tensor stands.

    Attributes:
        bits: bits of a stored code; of a type's own width, codes stand as the type has them, else
            counted from the lowest: ``-2^(b-1)`` to ``2^(b-1) - 1``, with a mask ``±1`` to
            ``±2^(b-1)``.
        masked: whether codes of zero are left out, and a mask says where they belong.
        group: number of blocks that share a scale.
        two_of_four: whether the mask keeps two of every four weights, and stands as
            `edgeprune.formats.two_of_four` says.
    """

    bits: int
    masked: bool = True
    group: int = 1
    two_of_four: bool = False

    def __str__(self) -> str:
        scale = "" if self.group == 1 else f"/{_BLOCK * self.group}"
        mask = "+2:4" if self.two_of_four else "+mask" if self.masked else ""
        return f"{self.bits}{mask}{scale}"

    def mask_bytes(self, weights: int) -> int:
        """Compute the bytes of a mask."""
        if self.two_of_four:
            return two_of_four.mask_bytes(weights)
        return -(-weights // 8) if self.masked else 0

    def kept(self, weights: int, nonzeros: int) -> int:
        """Compute how many codes are stored."""
        if self.two_of_four:
            return weights // 2
        return nonzeros if self.masked else weights

    def size(self, kind: str, weights: int, nonzeros: int) -> int:
        """Compute the bytes of a packed tensor.

        Args:
            kind: ggml's name of its type.
            weights: number of weights.
            nonzeros: number of weights whose code is not zero's.
        """
        side = weights // block_bytes(kind)[0] * side_bytes(kind) // self.group
        codes = codes_size(self.bits, self.kept(weights, nonzeros))
        return side + self.mask_bytes(weights) + codes

    def to_index(self, kind: str, codes: np.ndarray) -> np.ndarray:
        """Number the codes of a type as they are stored; with a mask, none is zero's."""
        own = CODES[kind]
        if self.bits == own.bits:
            return codes
        signed = _signed(kind, codes)
        return (signed + 2 ** (self.bits - 1) - (self.masked & (signed > 0))).view(np.uint8)

    def to_codes(self, kind: str, index: np.ndarray) -> np.ndarray:
        """Give back what `to_index` numbered."""
        own, half = CODES[kind], 2 ** (self.bits - 1)
        if self.bits == own.bits:
            return index
        signed = index.view(np.int8) - np.int8(half)
        if self.masked:
            signed += signed >= 0
        return (signed + np.int8(own.zero)).view(np.uint8)


def whole(kind: str) -> Form:
    """Return the form that any tensor of a type has: all its codes but zeros."""
    return Form(CODES[kind].bits)


def parse(text: str, kind: str) -> Form:
    """Read a form's text.

    Raises:
        ValueError: no tensor of this type stands so.
    """
    found = _TEXT.fullmatch(text)
    if found:
        group = int(found[3] or _BLOCK) // _BLOCK
        form = Form(int(found[1]), bool(found[2]), group, found[2] == "+2:4")
        if form in forms(kind):
            return form
    raise ValueError(f"{kind} has no form {text!r}")


def forms(kind: str) -> Iterator[Form]:
    """List the forms of a type, the narrowest first."""
    if kind in _NARROW:
        for bits in range(1, CODES[kind].bits):
            for masked, records in ((False, False), (True, False), (True, True)):
                yield from (Form(bits, masked, group, records) for group in _GROUPS)
    yield whole(kind)
    yield replace(whole(kind), two_of_four=True)


def find(kind: str, data: np.ndarray, columns: int) -> tuple[Form, int]:
    """Find the smallest form that holds a tensor, and its size in bytes.

    Args:
        kind: ggml's name of its type.
        data: (bytes,) uint8.
        columns: length of a row: scales are shared within rows.
    """
    own = CODES[kind]
    side, codes = own.split(data.reshape(-1, block_bytes(kind)[1]))
    nonzero = codes.reshape(-1) != own.zero
    kept = int(np.count_nonzero(nonzero))
    fewest, most = _of_four(nonzero)
    fitting = [whole(kind)]
    if most <= 2:
        fitting.append(replace(whole(kind), two_of_four=True))
    if kind in _NARROW and codes.size:
        group = _shared_scales(side, columns // block_bytes(kind)[0])
        signed = _signed(kind, codes)
        low, high = int(signed.min()), int(signed.max())
        for bits in range(1, own.bits):
            half = 2 ** (bits - 1)
            if -half <= low and high < half:
                fitting.append(Form(bits, masked=False, group=group))
            if -half <= low and high <= half:
                fitting.append(Form(bits, masked=True, group=group))
                if fewest == most == 2:  # zero has no code that could stand there
                    fitting.append(Form(bits, masked=True, group=group, two_of_four=True))
    sizes = [form.size(kind, codes.size, kept) for form in fitting]
    best = min(range(len(sizes)), key=sizes.__getitem__)
    return fitting[best], sizes[best]


def side_bytes(kind: str) -> int:
    """Return the bytes of a block that all its weights share."""
    per_block, size = block_bytes(kind)
    return (size * 8 - per_block * CODES[kind].bits) // 8


def codes_size(bits: int, kept: int) -> int:
    """Compute the bytes of so many codes: whole bytes, or one bit plane after another."""
    return kept * bits // 8 if bits % 8 == 0 else bits * -(-kept // 8)


def _of_four(nonzero: np.ndarray) -> tuple[int, int]:
    """Find how many of every four weights are not zero, at least and at most."""
    if not nonzero.size or nonzero.size % two_of_four.GROUP:
        return 0, two_of_four.GROUP
    counts = nonzero.view(np.uint8).reshape(-1, two_of_four.GROUP).sum(axis=1, dtype=np.uint8)
    return int(counts.min()), int(counts.max())


def _signed(kind: str, codes: np.ndarray) -> np.ndarray:
    return (codes - np.uint8(CODES[kind].zero)).view(np.int8)


def _shared_scales(side: np.ndarray, blocks: int) -> int:
    """Find how many neighbouring blocks of every row have one scale."""
    scales = np.ascontiguousarray(side).view(np.uint16)
    for group in _GROUPS:
        if blocks and blocks % group == 0:
            grouped = scales.reshape(-1, group)
            if (grouped == grouped[:, :1]).all():
                return group
    return 1
