"""Ways to store a matrix, from which a build chooses: a weight type, and perhaps zeros."""

from dataclasses import dataclass, replace

from edgeprune.planning.patterns import UNSTRUCTURED, Pattern, parse
from edgeprune.planning.tensors import TensorPlan


@dataclass(frozen=True)
class Stored:
    """A way to store a matrix.

    Attributes:
        type: a weight type, as ``--type`` takes it.
        sparsity: share of zeros.
        pattern: where they may stand.
    """

    type: str
    sparsity: float = 0.0
    pattern: Pattern = UNSTRUCTURED

    @property
    def name(self) -> str:
        """Such as ``q4_0``, ``q4_0, 50% zeros`` or ``q4_0, 2:4``."""
        if not self.sparsity:
            return self.type
        fixed = self.pattern.fixed is not None
        return f"{self.type}, {self.pattern.name if fixed else f'{self.sparsity:.0%} zeros'}"

    @property
    def zeros(self) -> float | str:
        """What ``pruning.allocation.map`` says for such a matrix."""
        return self.sparsity if self.pattern.fixed is None else self.pattern.name

    def in_type(self, kind: str) -> "Stored":
        """Return the same zeros in another type."""
        return replace(self, type=kind)

    def of(self, row: TensorPlan) -> TensorPlan:
        """Return a tensor's plan with these zeros; it is in the type already."""
        if not self.sparsity:
            return row
        return replace(row, zeros=round(self.sparsity * row.size), pattern=self.pattern)


def dense(*types: str) -> tuple[Stored, ...]:
    """Make ways without zeros."""
    return tuple(map(Stored, types))


def sparse(kind: str, *zeros: float | str) -> tuple[Stored, ...]:
    """Make ways with zeros: shares of unstructured ones, or patterns such as ``2:4``."""
    patterns = [parse(one) if isinstance(one, str) else None for one in zeros]
    return tuple(
        Stored(kind, pattern.fixed or 0.0, pattern) if pattern else Stored(kind, float(share))
        for share, pattern in zip(zeros, patterns, strict=True)
    )
