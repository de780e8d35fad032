"""Sparsity patterns: scores in, masks out. True is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Where zeros may stand.

    Attributes:
        kept: N of an N:M pattern; None if unstructured.
        group: M of an N:M pattern, consecutive weights along the input; None if unstructured.
    """

    kept: int | None = None
    group: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read ``unstructured`` or ``N:M``."""
        if text == "unstructured":
            return cls()
        kept, _, group = text.partition(":")
        return cls(int(kept), int(group))

    def __str__(self) -> str:
        return "unstructured" if self.group is None else f"{self.kept}:{self.group}"

    def fits(self, columns: int) -> bool:
        """Whether a row of so many weights can be cut into groups."""
        return self.group is None or columns % self.group == 0


def keep_mask(scores: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """Keep the weights with the largest scores.

    Args:
        scores: (out, in), larger is kept.
        pattern: unstructured compares within each output row, as Wanda does; N:M within each
            group of M consecutive inputs.
        sparsity: share removed of each row, met exactly up to rounding to whole weights; an N:M
            pattern fixes it and ignores this.

    Returns:
        (out, in) boolean, True is kept.

    Raises:
        ValueError: rows can't be cut into groups of M.
    """
    rows, columns = scores.shape
    if not pattern.fits(columns):
        raise ValueError(f"{columns} inputs do not divide into groups of {pattern.group}")
    if pattern.group is None:
        grouped, kept = scores, columns - round(columns * sparsity)
    else:
        grouped, kept = scores.reshape(rows, -1, pattern.group), pattern.kept or 0
    best = grouped.topk(kept, dim=-1, sorted=False).indices
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, best, True)
    return mask.reshape(rows, columns)
