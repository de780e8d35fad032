"""Reorder the hidden channels of feed-forward networks."""

from dataclasses import dataclass

from torch import Tensor, nn

from edgeprune.models.blocks import WeightView
from edgeprune.models.families import FAMILIES

# Every layout once. Names decide, not the family of the model: many more use them than are listed.
_LAYOUTS = dict.fromkeys(family.feed_forward for family in FAMILIES if family.feed_forward)


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward network of a block.

    Attributes:
        makers: names of the matrices whose rows are the hidden channels.
        reader: name of the matrix whose columns are the hidden channels.
    """

    makers: tuple[str, ...]
    reader: str

    def reorder(self, block: nn.Module, matrices: dict[str, WeightView], order: Tensor) -> None:
        """Reorder the hidden channels in place; the network's output stays the same.

        Args:
            block: the block that holds the matrices.
            matrices: the block's matrices by name.
            order: (hidden,) old channel for each new position.
        """
        for name in self.makers:
            matrix = matrices[name]
            matrix.write(block, matrix.read(block).data[order])
            bias = getattr(block.get_submodule(matrix.module), "bias", None)
            if bias is not None:
                bias.data.copy_(bias.data[order])
        reader = matrices[self.reader]
        reader.write(block, reader.read(block).data[:, order])

    def biases(self, block: nn.Module, matrices: dict[str, WeightView]) -> list[str]:
        """Name the parameters, besides the matrices, that `reorder` changes."""
        names = [f"{matrices[name].module}.bias" for name in self.makers]
        known = dict(block.named_parameters())
        return [name for name in names if name in known]


def feed_forwards(matrices: dict[str, WeightView]) -> list[FeedForward]:
    """Find the feed-forward networks of a block whose layout is known; experts are left out."""
    found = []
    by_module = {m.module: name for name, m in matrices.items() if m.expert is None}
    for module_name, name in by_module.items():
        parent, _, leaf = module_name.rpartition(".")
        for layout in _LAYOUTS:
            modules = [f"{parent}.{maker}" for maker in layout.makers]
            if leaf == layout.reader and all(module in by_module for module in modules):
                found.append(FeedForward(tuple(by_module[m] for m in modules), name))
    return found
