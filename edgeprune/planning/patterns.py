"""Sparsity patterns: where zeros are allowed, and masks from scores. True is kept.

A pattern is one class and one line in `parse`; no other code tests for a particular pattern. torch
is
imported only where tensors are at hand, so that plans are made without it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Pattern(Protocol):
    """Where zeros are allowed.

    Attributes:
        name: the pattern's name in recipes and artifacts.
        unit: number of consecutive inputs decided together; column orders must not separate them.
        kept: weights kept per unit where the pattern fixes it, else 1.
        fixed: the sparsity that the pattern fixes; None: any sparsity.
        mask_bits: bits that a weight's place in a packed file's mask takes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def unit(self) -> int: ...  # noqa: D102

    @property
    def kept(self) -> int: ...  # noqa: D102

    @property
    def fixed(self) -> float | None: ...  # noqa: D102

    @property
    def mask_bits(self) -> float: ...  # noqa: D102

    def fits(self, columns: int) -> bool:
        """Tell whether a row of so many weights can have the pattern."""

    def label(self, sparsity: float) -> str:
        """Return pattern and sparsity as part of a file name."""

    def holds(self, nonzero: "np.ndarray") -> bool:
        """Tell whether a mask, (out, in) boolean, True where not zero, has the pattern."""

    def keep(self, scores: "Tensor", zeros: int) -> "Tensor":
        """Keep the weights with the largest scores.

        Args:
            scores: (out, in), larger is kept.
            zeros: number of weights to prune in the whole matrix, met exactly; a pattern that fixes
                the
                number ignores this.

        Returns:
            (out, in) boolean, True is kept.

        Raises:
            ValueError: rows do not fit the pattern.
        """

    def columns_at_once(self, block: int) -> int:
        """Return how many of a ``block`` of columns a column loop decides together."""

    def keep_columns(self, scores: "Tensor", zeros: int) -> "Tensor":
        """Apply `keep` to `columns_at_once` columns of a column loop, given as (columns, out)."""

    def swap_candidates(
        self, cost: "Tensor", gain: "Tensor", count: int
    ) -> "tuple[Tensor, Tensor]":
        """Choose at most ``count`` columns worth swapping per row: (out, n) to prune, to revive.

        Args:
            cost: (out, in) cost of pruning a weight; infinite where it is pruned already.
            gain: (out, in) gain of reviving a weight; negative infinite where it is kept.
            count: largest number of columns.
        """

    def may_swap(self, pruned: "Tensor", revived: "Tensor") -> "Tensor":
        """Tell whether pruning one column and reviving another keeps the pattern.

        Args:
            pruned: (out, n) columns.
            revived: (out, m) columns.

        Returns:
            boolean that broadcasts to (out, n, m).
        """


@dataclass(frozen=True)
class Unstructured:
    """Zeros anywhere; every output row gets the same number, as in Wanda, give or take one."""

    name: str = "unstructured"
    unit: int = 1
    kept: int = 1
    fixed: None = None
    mask_bits: float = 1.0

    def fits(self, _columns: int) -> bool:
        """Always."""
        return True

    def label(self, sparsity: float) -> str:
        """Such as ``50pct``."""
        return f"{round(100 * sparsity)}pct"

    def holds(self, _nonzero: "np.ndarray") -> bool:
        """Always."""
        return True

    def keep(self, scores: "Tensor", zeros: int) -> "Tensor":
        """The best of each output row."""
        import torch

        rows, columns = scores.shape
        fewest, rest = divmod(zeros, rows)
        if rest == 0:
            return _largest(scores, columns - fewest)
        mask = torch.empty_like(scores, dtype=torch.bool)
        one_more = spread(zeros, rows, scores.device) > fewest
        mask[one_more] = _largest(scores[one_more], columns - fewest - 1)
        mask[~one_more] = _largest(scores[~one_more], columns - fewest)
        return mask

    def columns_at_once(self, block: int) -> int:
        """The whole block."""
        return block

    def keep_columns(self, scores: "Tensor", zeros: int) -> "Tensor":
        """The best of all that are given, over all rows, as SparseGPT does."""
        import torch

        mask = torch.ones_like(scores, dtype=torch.bool)
        mask.view(-1)[scores.flatten().topk(zeros, largest=False, sorted=False).indices] = False
        return mask

    def swap_candidates(
        self, cost: "Tensor", gain: "Tensor", count: int
    ) -> "tuple[Tensor, Tensor]":
        """The cheapest kept and the dearest pruned weights of each row."""
        count = min(count, cost.shape[1])
        out = cost.topk(count, dim=1, largest=False).indices
        return out, gain.topk(count, dim=1).indices

    def may_swap(self, pruned: "Tensor", _revived: "Tensor") -> "Tensor":
        """Always."""
        return (pruned >= 0)[..., None]


@dataclass(frozen=True)
class NOfM:
    """N kept of every M consecutive inputs.

    Attributes:
        kept: N.
        unit: M.
    """

    kept: int
    unit: int

    @property
    def name(self) -> str:
        """``N:M``."""
        return f"{self.kept}:{self.unit}"

    @property
    def fixed(self) -> float:
        """Share of zeros."""
        return 1 - self.kept / self.unit

    @property
    def mask_bits(self) -> float:
        """Of 2:4, three groups stand in a byte."""
        return 2 / 3 if (self.kept, self.unit) == (2, 4) else 1.0

    def fits(self, columns: int) -> bool:
        """Whether rows can be cut into groups."""
        return columns % self.unit == 0

    def label(self, _sparsity: float) -> str:
        """Such as ``2of4``."""
        return f"{self.kept}of{self.unit}"

    def holds(self, nonzero: "np.ndarray") -> bool:
        """Whether no group has more than N weights."""
        return bool((nonzero.reshape(-1, self.unit).sum(1) <= self.kept).all())

    def keep(self, scores: "Tensor", _zeros: int) -> "Tensor":
        """The best N of each group."""
        if not self.fits(scores.shape[1]):
            raise ValueError(f"{scores.shape[1]} inputs do not divide into groups of {self.unit}")
        return _largest(scores.reshape(-1, self.unit), self.kept).reshape(scores.shape)

    def columns_at_once(self, _block: int) -> int:
        """One group, when it is reached."""
        return self.unit

    def keep_columns(self, scores: "Tensor", zeros: int) -> "Tensor":
        """The best N of one group in every row."""
        return self.keep(scores.T, zeros).T

    def swap_candidates(
        self, cost: "Tensor", gain: "Tensor", count: int
    ) -> "tuple[Tensor, Tensor]":
        """A swap stays in its group, so groups are picked by their best pair."""
        shape = (len(cost), -1, self.unit)
        cheapest, out = cost.view(shape).min(dim=2)
        dearest, back = gain.view(shape).max(dim=2)
        count = min(count, cheapest.shape[1])
        groups = (dearest - cheapest).topk(count, dim=1).indices
        start = groups * self.unit
        return start + out.gather(1, groups), start + back.gather(1, groups)

    def may_swap(self, pruned: "Tensor", revived: "Tensor") -> "Tensor":
        """Within one group."""
        return pruned[..., None] // self.unit == revived[:, None] // self.unit


def parse(text: str) -> Pattern:
    """Read ``unstructured`` or ``N:M``.

    Raises:
        ValueError: it is neither.
    """
    if text == UNSTRUCTURED.name:
        return UNSTRUCTURED
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise ValueError(f"'{text}' is neither '{UNSTRUCTURED.name}' nor N:M with 0 < N < M")
    return NOfM(int(match[1]), int(match[2]))


UNSTRUCTURED = Unstructured()


@dataclass(frozen=True)
class Budget:
    """How many weights of one matrix are pruned, and under which pattern.

    Attributes:
        pattern: the sparsity pattern.
        zeros: number of weights to prune in the whole matrix.
    """

    pattern: Pattern
    zeros: int

    def keep(self, scores: "Tensor") -> "Tensor":
        """Apply `Pattern.keep` with this many zeros."""
        return self.pattern.keep(scores, self.zeros)


def spread(total: int, parts: int, device: "torch.device | str" = "cpu") -> "Tensor":
    """Cut ``total`` into ``parts`` whole numbers that differ by at most one, evenly interleaved.

    Returns:
        (parts,) int64 that add up to ``total``.
    """
    import torch

    ends = torch.arange(parts + 1, device=device) * total // parts
    return ends.diff()


def _largest(scores: "Tensor", count: int) -> "Tensor":
    import torch

    best = scores.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)
