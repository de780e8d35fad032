"""Pruning methods: tensors in, tensors out. A method is one file and one line here."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from edgeprune.planning.patterns import Budget
    from edgeprune.pruning.gram import Gram
    from edgeprune.pruning.statistics import InputStatistics

    Score = Callable[[Tensor, InputStatistics], Tensor]
    Solve = Callable[[Tensor, Gram, Budget], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to choose zeros, and the inputs it needs.

    Attributes:
        module: module with ``score(weight, inputs)``, the importance of each weight, or
            ``solve(weight, gram, budget)``, which moves the kept weights too. Imported when used,
            so that names cost nothing.
        sees: what it uses of the data: ``nothing`` (then fusion has no effect), second ``moments``,
            or
            the whole ``gram`` matrix.
        solves: whether the module holds ``solve``.
        gradient: mean squared gradients that the score needs: of one ``block``'s output, or of the
            ``model``'s loss.
    """

    module: str
    sees: Literal["nothing", "moments", "gram"]
    solves: bool = False
    gradient: Literal["block", "model"] | None = None

    @property
    def score(self) -> "Score":
        """Compute the importance of each weight, larger is kept: (out, in) from (out, in)."""
        return import_module(self.module).score

    @property
    def solve(self) -> "Solve":
        """Compute pruned weights, (out, in), from dense ones."""
        return import_module(self.module).solve


METHODS = {
    "magnitude": Method("edgeprune.pruning.methods.magnitude", "nothing"),
    "wanda": Method("edgeprune.pruning.methods.wanda", "moments"),
    "ria": Method("edgeprune.pruning.methods.ria", "moments"),
    "wanda_pp": Method("edgeprune.pruning.methods.wanda_pp", "moments", gradient="block"),
    "fisher": Method("edgeprune.pruning.methods.fisher", "moments", gradient="model"),
    "obs": Method("edgeprune.pruning.methods.obs", "gram"),
    "isc": Method("edgeprune.pruning.methods.isc", "gram"),
    "sparsegpt": Method("edgeprune.pruning.methods.sparsegpt", "gram", solves=True),
    "rose": Method("edgeprune.pruning.methods.rose", "gram", solves=True),
    "alps": Method("edgeprune.pruning.methods.alps", "gram", solves=True),
    "alps_fast": Method("edgeprune.pruning.methods.alps_fast", "gram", solves=True),
}
