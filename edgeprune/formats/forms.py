"""How the codes of a packed tensor stand: how wide, with a mask or not, with how many scales.

Ggml's plain types have a code for every weight, all equally wide, and a scale for 32 of them. Of a
tensor that uses few of the codes, a packed file holds those alone, at their own width; where
neighbouring blocks have the same scale, it stands there once. What a tensor uses is found in its
bytes, whoever wrote them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeprune.formats.codes import CODES, block_bytes

# Types with forms narrower than their own: one float16 scale, then codes around the code of zero.
_NARROW = ("Q4_0", "Q8_0")
_GROUPS = (4, 2, 1)
_TEXT = re.compile(r"([1-9]|[1-3][0-9])(\+mask)?(?:/(64|128))?")
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
    """

    bits: int
    masked: bool = True
    group: int = 1

    def __str__(self) -> str:
        scale = "" if self.group == 1 else f"/{_BLOCK * self.group}"
        return f"{self.bits}{'+mask' if self.masked else ''}{scale}"

    def size(self, kind: str, weights: int, kept: int) -> int:
        """Compute the bytes of a packed tensor.

        Args:
            kind: ggml's name of its type.
            weights: number of weights.
            kept: number of weights whose code is not zero's.
        """
        side = weights // block_bytes(kind)[0] * side_bytes(kind) // self.group
        mask = -(-weights // 8) if self.masked else 0
        return side + mask + codes_size(self.bits, kept if self.masked else weights)

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
        form = Form(int(found[1]), bool(found[2]), int(found[3] or _BLOCK) // _BLOCK)
        if form in forms(kind):
            return form
    raise ValueError(f"{kind} has no form {text!r}")


def forms(kind: str) -> Iterator[Form]:
    """List the forms of a type, the narrowest first."""
    if kind in _NARROW:
        for bits in range(1, CODES[kind].bits):
            for masked in (False, True):
                yield from (Form(bits, masked, group) for group in _GROUPS)
    yield whole(kind)


def find(kind: str, data: np.ndarray, columns: int) -> tuple[Form, int]:
    """Find the smallest form that holds a tensor, and its size in bytes.

    Args:
        kind: ggml's name of its type.
        data: (bytes,) uint8.
        columns: length of a row: scales are shared within rows.
    """
    own = CODES[kind]
    side, codes = own.split(data.reshape(-1, block_bytes(kind)[1]))
    kept = int(np.count_nonzero(codes != own.zero))
    fitting = [whole(kind)]
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
