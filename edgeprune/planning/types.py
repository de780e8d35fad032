"""Weight types for ``--type``; each target defines its own (``exporters/<target>``).

A type may be followed by an alphabet, the codes of it that a tensor uses: ``q4_0:3`` is a Q4_0 file
with the codes -4 to 3, of 3 bits. ``+mask`` leaves 0 to a mask: of ``q4_0:2+mask``, kept weights
are ±1 or ±2 scales, and zeros cost one bit each, as pruning asks for them. ``/64`` is one scale for
64 weights instead of 32. The plain file is one of its type; a packed file has the codes at their
own width.
"""

from dataclasses import dataclass, replace

from edgeprune.planning.grid import FILE_BLOCK, Grid

_OF_FOUR_BITS = (
    Grid(-4, 3), Grid(-2, 1),
    Grid(-4, 4, masked=True), Grid(-2, 2, masked=True), Grid(-1, 1, masked=True),
)  # fmt: skip
_OF_EIGHT_BITS = (Grid(-32, 31), Grid(-16, 15))
# By type: codes that are narrower than its own.
_ALPHABETS = {
    "q4_0": _OF_FOUR_BITS, "q8_0": _OF_EIGHT_BITS, "int4": _OF_FOUR_BITS, "int8": _OF_EIGHT_BITS,
}  # fmt: skip
SCALES = (FILE_BLOCK, 64, 128)  # weights that may share one


@dataclass(frozen=True)
class WeightType:
    """A weight type of a target.

    Attributes:
        base: the format's name of the type that most matrices get.
        keeps_zeros: whether an exact zero stays zero after quantisation.
        instead: for types that lose zeros, the type nearest in size that keeps them.
        mix: llama.cpp's rule that gives some tensors more bits, such as ``Q4_K_M``; empty: the
            base everywhere but in embedding and head.
        alphabet: the codes that the matrices of decoder blocks use; None: all.
    """

    base: str
    keeps_zeros: bool
    instead: str = ""
    mix: str = ""
    alphabet: Grid | None = None


def keeps_zeros(*names: str) -> dict[str, WeightType]:
    """Find the types that hold an exact zero, by their names in lower case."""
    return {name: WeightType(name.upper(), keeps_zeros=True) for name in names}


def narrow(*bases: str, scales: tuple[int, ...] = SCALES) -> dict[str, WeightType]:
    """Find the types with an alphabet, by their names.

    Args:
        bases: types that they are made of.
        scales: numbers of weights that share a scale.
    """
    found = {}
    for base in bases:
        for grid in (replace(one, block=block) for one in _ALPHABETS[base] for block in scales):
            found[f"{base}:{grid.name}"] = WeightType(base.upper(), keeps_zeros=True, alphabet=grid)
    return found
