"""The placement report of a model's sparse weights, for either runtime."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Placement report of a model's sparse tensors.

    Attributes:
        claimed: number of tensors claimed for packing.
        tensors: number of tensors that are packed.
        packed_bytes: their size in memory.
        dense_bytes: their size as stored in a plain file.
        failures: number of tensors whose bytes did not match their declared size.
    """

    claimed: int
    tensors: int
    packed_bytes: int
    dense_bytes: int
    failures: int = 0
