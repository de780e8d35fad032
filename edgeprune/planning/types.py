"""Weight types for ``--type``; each target defines its own (``exporters/<target>``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightType:
    """A weight type of a target.

    Attributes:
        base: the format's name of the type that most matrices get.
        keeps_zeros: whether an exact zero stays zero after quantisation.
        instead: for types that lose zeros, the type nearest in size that keeps them.
        mix: llama.cpp's rule that gives some tensors more bits, such as ``Q4_K_M``; empty: the
            base everywhere but in embedding and head.
    """

    base: str
    keeps_zeros: bool
    instead: str = ""
    mix: str = ""


def keeps_zeros(*names: str) -> dict[str, WeightType]:
    """Find the types that hold an exact zero, by their names in lower case."""
    return {name: WeightType(name.upper(), keeps_zeros=True) for name in names}
