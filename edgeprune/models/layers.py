"""The decoder blocks of a model and the weight matrices inside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgeprune.errors import InputError


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a block, wherever the block keeps it.

    Attributes:
        module: name of the module that holds it.
        parameter: name of the parameter inside the block.
    """

    module: str
    parameter: str

    def read(self, block: nn.Module) -> Tensor:
        """The matrix as (out, in); a view of the block's own."""
        return self.view(block.get_parameter(self.parameter))

    def write(self, block: nn.Module, values: Tensor) -> None:
        """Replace the matrix by (out, in) values."""
        self.read(block).data.copy_(values)

    def view(self, parameter: Tensor) -> Tensor:
        """This matrix, (out, in), inside a tensor of the parameter's shape."""
        return parameter


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks and its name.

    Raises:
        InputError: not exactly one list of the length that the configuration names.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__} keeps its blocks in a way edgeprune doesn't know: expected "
            f"one list of {depth} blocks, found {len(found)}.",
            "Decoder-only transformers models such as Llama are supported.",
        )
    return found[0]


def weight_matrices(block: nn.Module) -> dict[str, Matrix]:
    """The weight matrices of a block that can be pruned, by a name of their own.

    Raises:
        InputError: the block holds matrices in other layers, which would stay dense unseen.
    """
    matrices = {
        f"{name}.weight": Matrix(name, f"{name}.weight")
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    others = [name for name, p in block.named_parameters() if p.dim() > 1 and name not in matrices]
    if others or not matrices:
        what = (
            f"weight matrices outside linear layers ({', '.join(others[:3])})"
            if others
            else ("no linear layers")
        )
        raise InputError(
            f"A block of type {type(block).__name__} holds {what}.",
            "Fused and mixture-of-experts layers are not supported yet.",
        )
    return matrices


# Told of a matrix' name, the inputs it multiplies, (n, in), and which of the batch's tokens they
# are, (n,); None means all of them in order.
Watcher = Callable[[str, Tensor, Tensor | None], None]


def watch(block: nn.Module, matrices: dict[str, Matrix], watcher: Watcher) -> list[Any]:
    """Tell ``watcher`` of every input of the matrices while the block runs.

    Returns:
        Handles; call ``remove()`` on each when done.
    """

    def hook(name: str) -> Any:
        return lambda _module, args: watcher(name, args[0], None)

    return [
        block.get_submodule(matrix.module).register_forward_pre_hook(hook(name))
        for name, matrix in matrices.items()
    ]
