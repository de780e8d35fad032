"""Pruning methods: tensors in, tensors out. One file a method, one line here."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from edgeprune.methods.statistics import InputStatistics

    Score = Callable[[Tensor, InputStatistics], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to score weights.

    Attributes:
        module: holds ``score(weight, inputs)``; imported when used, so that names cost nothing.
        sees_data: False if the score ignores the inputs; then fusion does nothing.
    """

    module: str
    sees_data: bool

    @property
    def score(self) -> "Score":
        """Importance of each weight, larger is kept: (out, in) from (out, in)."""
        return import_module(self.module).score


METHODS = {
    "magnitude": Method("edgeprune.methods.magnitude", sees_data=False),
    "wanda": Method("edgeprune.methods.wanda", sees_data=True),
}
