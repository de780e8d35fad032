"""The hidden channels of a feed-forward network, whose order is free."""

from dataclasses import dataclass

from torch import Tensor, nn

from edgeprune.models.layers import Matrix

# Names, inside the network, of the matrices that make the hidden channels and of the one that reads
# them, with nothing but elementwise functions between.
_KINDS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("c_fc",), "c_proj"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("fc1",), "fc2"),
)


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward network of a block.

    Attributes:
        makers: names of the matrices whose rows are the hidden channels.
        reader: name of the matrix whose columns they are.
    """

    makers: tuple[str, ...]
    reader: str

    def reorder(self, block: nn.Module, matrices: dict[str, Matrix], order: Tensor) -> None:
        """Reorder the hidden channels in place; what the network computes stays the same.

        Args:
            block: holds the matrices.
            matrices: of the block, by name.
            order: (hidden,) new place to old channel.
        """
        for name in self.makers:
            matrix = matrices[name]
            matrix.write(block, matrix.read(block).data[order])
            bias = getattr(block.get_submodule(matrix.module), "bias", None)
            if bias is not None:
                bias.data.copy_(bias.data[order])
        reader = matrices[self.reader]
        reader.write(block, reader.read(block).data[:, order])

    def biases(self, block: nn.Module, matrices: dict[str, Matrix]) -> list[str]:
        """Names of the parameters besides the matrices that `reorder` changes."""
        names = [f"{matrices[name].module}.bias" for name in self.makers]
        known = dict(block.named_parameters())
        return [name for name in names if name in known]


def feed_forwards(matrices: dict[str, Matrix]) -> list[FeedForward]:
    """The feed-forward networks of a block whose layout is known; experts are left alone."""
    found = []
    by_module = {m.module: name for name, m in matrices.items() if m.expert is None}
    for module_name, name in by_module.items():
        parent, _, leaf = module_name.rpartition(".")
        for makers, reader in _KINDS:
            modules = [f"{parent}.{maker}" for maker in makers]
            if leaf == reader and all(module in by_module for module in modules):
                found.append(FeedForward(tuple(by_module[m] for m in modules), name))
    return found
