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


@dataclass(frozen=True)
class Budget:
    """How many weights of one matrix go, and where they may go.

    Attributes:
        pattern: where zeros may stand.
        zeros: weights removed from the whole matrix, met exactly; an N:M pattern fixes the number
            and ignores this.
    """

    pattern: Pattern
    zeros: int

    def keep(self, scores: Tensor) -> Tensor:
        """Keep the weights with the largest scores.

        Args:
            scores: (out, in), larger is kept. Unstructured pruning compares within each output
                row, as Wanda does; N:M within each group of M consecutive inputs.

        Returns:
            (out, in) boolean, True is kept.

        Raises:
            ValueError: rows can't be cut into groups of M.
        """
        rows, columns = scores.shape
        if not self.pattern.fits(columns):
            raise ValueError(f"{columns} inputs do not divide into groups of {self.pattern.group}")
        if self.pattern.group is not None:
            groups = scores.reshape(-1, self.pattern.group)
            return _largest(groups, self.pattern.kept or 0).reshape(rows, columns)
        fewest, rest = divmod(self.zeros, rows)
        if rest == 0:
            return _largest(scores, columns - fewest)
        mask = torch.empty_like(scores, dtype=torch.bool)
        one_more = spread(self.zeros, rows, scores.device) > fewest
        mask[one_more] = _largest(scores[one_more], columns - fewest - 1)
        mask[~one_more] = _largest(scores[~one_more], columns - fewest)
        return mask


def spread(total: int, parts: int, device: torch.device | str = "cpu") -> Tensor:
    """Cut ``total`` into ``parts`` whole numbers that differ by at most one, evenly interleaved.

    Returns:
        (parts,) int64 that add up to ``total``.
    """
    ends = torch.arange(parts + 1, device=device) * total // parts
    return ends.diff()


def _largest(scores: Tensor, count: int) -> Tensor:
    best = scores.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)
