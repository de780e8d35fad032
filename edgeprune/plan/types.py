"""What can be asked for with ``--type``; each target names its own (``exporters/<target>``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightType:
    """A weight type of a target.

    Attributes:
        base: the format's own name of the type that most matrices get.
        keeps_zeros: whether an exact zero is still one after quantisation.
        instead: for types that keep none, the nearest in size that does.
        mix: llama.cpp's rule that gives some tensors more bits, such as ``Q4_K_M``; empty: the
            base everywhere but in embedding and head.
    """

    base: str
    keeps_zeros: bool
    instead: str = ""
    mix: str = ""


def keeps_zeros(*names: str) -> dict[str, WeightType]:
    """Types that hold an exact zero, by their names in small letters."""
    return {name: WeightType(name.upper(), keeps_zeros=True) for name in names}
