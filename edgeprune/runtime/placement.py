"""What became of a model's sparse weights, whichever runtime loaded it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """What became of a model's sparse tensors.

    Attributes:
        claimed: tensors that were to be packed.
        tensors: those that are.
        packed_bytes: what they take in memory.
        dense_bytes: what they would take as they stand in the file.
        failures: tensors whose bytes were not as they had been announced.
    """

    claimed: int
    tensors: int
    packed_bytes: int
    dense_bytes: int
    failures: int = 0
