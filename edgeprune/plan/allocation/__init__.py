"""Which matrix gets how much of the sparsity: numbers in, numbers out. One file an allocation.

Each module's ``allocate(request)`` gives the sparsity it wants for each matrix; `zeros` turns that
into whole numbers that add up exactly. Names cost no torch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from edgeprune.plan.allocation.exact import exact
from edgeprune.support.progress import Stage

Zeros = dict[str, int]
# How far candidates are from the dense model, judged on a share of the data; smaller is better.
Fitness = Callable[[list[Zeros], float], list[float]]


class Sensitivity(Protocol):
    """What allocations may ask of the dense model; `edgeprune.engine.sensitivity` measures it."""

    def outliers(self) -> list[float]:
        """Share of each block's scores that are outliers."""

    def losses(self, zeros: Zeros) -> dict[str, float]:
        """How much the loss rises when each matrix alone loses so many weights."""

    def fitness(self) -> Fitness:
        """A judge of whole candidates."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """Show that something of so many steps is done."""


@dataclass(frozen=True)
class Request:
    """What an allocation is asked.

    Attributes:
        sizes: weights of each matrix, in the order of the model.
        blocks: names of the matrices of each block.
        sparsity: over all of them.
        spread: half-width a of atp and rank, λ of owl: sparsities lie about ``p ± spread``.
        shares: of map, regular expressions on matrix names and the sparsity of what they match.
        sensitivity: asks the dense model; called only by allocations that measure.
    """

    sizes: dict[str, int]
    blocks: list[list[str]]
    sparsity: float
    spread: float
    shares: dict[str, float]
    sensitivity: Callable[[], Sensitivity]

    def of_blocks(self, values: list[float]) -> dict[str, float]:
        """One value a block, for each of its matrices."""
        pairs = zip(values, self.blocks, strict=True)
        return {name: value for value, names in pairs for name in names}

    @property
    def uniform(self) -> Zeros:
        """Every matrix alike, exact in total."""
        return exact(dict.fromkeys(self.sizes, self.sparsity), self.sizes, self.sparsity)


@dataclass(frozen=True)
class Allocation:
    """A way to spread sparsity over the matrices of the blocks; their total is what was asked for.

    Attributes:
        module: holds ``allocate``. Imported when used.
        measures: whether the dense model is run for it.
    """

    module: str
    measures: bool = False

    def zeros(self, request: Request) -> Zeros:
        """Zeros of each matrix, which add up to exactly what the sparsity asks for.

        Raises:
            UsageError: the user's own map makes no sense for this model.
        """
        return import_module(self.module).allocate(request)


_HERE = "edgeprune.plan.allocation"
ALLOCATIONS = {
    "uniform": Allocation(f"{_HERE}.uniform"),
    "atp": Allocation(f"{_HERE}.atp"),
    "owl": Allocation(f"{_HERE}.owl", measures=True),
    "rank": Allocation(f"{_HERE}.rank", measures=True),
    "map": Allocation(f"{_HERE}.named"),
    "evolve": Allocation(f"{_HERE}.evolve", measures=True),
}
