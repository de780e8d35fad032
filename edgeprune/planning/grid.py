"""Integer grids with one scale for a run of weights."""

from dataclasses import dataclass

SCALE_BITS = 16  # of a float16, as in ggml's types
FILE_BLOCK = 32  # weights of a scale in ggml's plain types


@dataclass(frozen=True)
class Grid:
    """Weights ``d · q`` with whole ``q`` in ``[low, high]``, and a float16 ``d`` per block.

    Attributes:
        low: smallest code.
        high: largest code.
        block: number of consecutive weights of a row that share a scale.
        masked: whether zeros stand in a mask alone, so that no kept weight has code 0.
    """

    low: int
    high: int
    block: int = FILE_BLOCK
    masked: bool = False

    @property
    def bits(self) -> int:
        """Bits that hold the code of a kept weight."""
        return (self.high - self.low - self.masked).bit_length()

    @property
    def name(self) -> str:
        """How recipes spell it behind a type: ``3``, ``3/64``, ``2+mask``."""
        scale = "" if self.block == FILE_BLOCK else f"/{self.block}"
        return f"{self.bits}{'+mask' if self.masked else ''}{scale}"

    def bits_per_weight(
        self, density: float = 1.0, mask_bits: float = 1.0, scale_bits: int = SCALE_BITS
    ) -> float:
        """Compute bits of a packed weight: the code, perhaps a mask, and its share of a scale.

        ``m + (1 - s) b + c / B``, or ``b + c / B`` where a mask does not pay.

        Args:
            density: share of weights that are kept.
            mask_bits: ``m``, of the pattern.
            scale_bits: ``c``, of the format.
        """
        masked = mask_bits + density * self.bits
        return scale_bits / self.block + (masked if self.masked else min(masked, self.bits))
