"""Allocation of sparsity to matrices: numbers in, numbers out. Each allocation is one file.

Each module's ``allocate(request)`` gives the sparsity it wants for each matrix; `zeros` turns that
into whole numbers that add up exactly. Names cost no torch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from edgeprune.planning.allocation.exact import exact
from edgeprune.support.progress import Stage

Zeros = dict[str, int]
# How far candidates are from the dense model, judged on a share of the data; smaller is better.
Fitness = Callable[[list[Zeros], float], list[float]]


class Sensitivity(Protocol):
    """Sensitivities that allocations may use; `edgeprune.engine.sensitivity` measures them."""

    def outliers(self) -> list[float]:
        """Measure the share of each block's scores that are outliers."""

    def losses(self, zeros: Zeros) -> dict[str, float]:
        """Measure how much the loss rises when each matrix alone loses so many weights."""

    def fitness(self) -> Fitness:
        """Make a function that rates whole candidates; lower is better."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """Begin a progress stage of so many steps."""


@dataclass(frozen=True)
class Request:
    """The input of an allocation.

    Attributes:
        sizes: number of weights of each matrix, in model order.
        blocks: names of the matrices of each block.
        sparsity: sparsity over all matrices.
        spread: half-width a of atp and rank, λ of owl: sparsities lie within about ``p ± spread``.
        shares: for map, regular expressions on matrix names and the sparsity of their matches.
        sensitivity: opens the dense model's sensitivities; called only by allocations that measure.
    """

    sizes: dict[str, int]
    blocks: list[list[str]]
    sparsity: float
    spread: float
    shares: dict[str, float]
    sensitivity: Callable[[], Sensitivity]

    def of_blocks(self, values: list[float]) -> dict[str, float]:
        """Repeat one value per block for each of its matrices."""
        pairs = zip(values, self.blocks, strict=True)
        return {name: value for value, names in pairs for name in names}

    @property
    def uniform(self) -> Zeros:
        """Return uniform zeros with the exact total."""
        return exact(dict.fromkeys(self.sizes, self.sparsity), self.sizes, self.sparsity)


@dataclass(frozen=True)
class Allocation:
    """A way to spread sparsity over the matrices of the blocks; the total is exact.

    Attributes:
        module: module with ``allocate``, imported when used.
        measures: whether the allocation runs the dense model.
    """

    module: str
    measures: bool = False

    def zeros(self, request: Request) -> Zeros:
        """Compute the zeros of each matrix; they add up to exactly the requested sparsity.

        Raises:
            UsageError: the user's own map does not fit this model.
        """
        return import_module(self.module).allocate(request)


_HERE = "edgeprune.planning.allocation"
ALLOCATIONS = {
    "uniform": Allocation(f"{_HERE}.uniform"),
    "atp": Allocation(f"{_HERE}.atp"),
    "owl": Allocation(f"{_HERE}.owl", measures=True),
    "rank": Allocation(f"{_HERE}.rank", measures=True),
    "map": Allocation(f"{_HERE}.named"),
    "evolve": Allocation(f"{_HERE}.evolve", measures=True),
}
