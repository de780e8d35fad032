"""The decoder blocks of a model and the weight matrices inside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgeprune.models import experts
from edgeprune.support.errors import InputError


@dataclass(frozen=True)
class WeightView:
    """One weight matrix of a block, wherever the block keeps it.

    Attributes:
        module: name of the module that holds the matrix.
        parameter: name of the parameter inside the block.
        transposed: whether the parameter is (in, out).
        expert: index of the expert, if the parameter stacks several.
        rows: first row and the one after the last, if the parameter (or its expert) has other rows
            too.
    """

    module: str
    parameter: str
    transposed: bool = False
    expert: int | None = None
    rows: tuple[int, int] | None = None

    def read(self, block: nn.Module) -> Tensor:
        """Return the matrix as (out, in), a view of the block's own memory."""
        return self.view(block.get_parameter(self.parameter))

    def write(self, block: nn.Module, values: Tensor) -> None:
        """Replace the matrix by (out, in) values."""
        self.read(block).data.copy_(values)

    def view(self, parameter: Tensor) -> Tensor:
        """Return this matrix, (out, in), inside a tensor of the parameter's shape."""
        matrix = parameter if self.expert is None else parameter[self.expert]
        matrix = matrix.T if self.transposed else matrix
        return matrix if self.rows is None else matrix[slice(*self.rows)]


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder blocks and its name.

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
            f"{type(model).__name__} has an unknown layout: expected one list of {depth} decoder "
            f"blocks, found {len(found)}.",
            "edgeprune supports decoder-only transformers models such as Llama.",
        )
    return found[0]


def weight_matrices(block: nn.Module) -> dict[str, WeightView]:
    """Collect the prunable weight matrices of a block, by name.

    Routers of experts stay dense.

    Raises:
        InputError: the block has matrices in other layers, which would silently stay dense.
    """
    from transformers.pytorch_utils import Conv1D

    dense = {module for router in experts.routers(block) for module in router.modules()}
    matrices = {}
    for name, module in block.named_modules():
        if module in dense:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            transposed = isinstance(module, Conv1D)
            matrices[f"{name}.weight"] = WeightView(name, f"{name}.weight", transposed)
        elif experts.holds_experts(module):
            for part, parameter, expert, rows in experts.expert_parts(module):
                place = WeightView(name, f"{name}.{parameter}", expert=expert, rows=rows)
                matrices[f"{name}.{part}"] = place
    known = {matrix.parameter for matrix in matrices.values()}
    spared = {id(parameter) for module in dense for parameter in module.parameters()}
    others = [
        name
        for name, parameter in block.named_parameters()
        if parameter.dim() > 1 and name not in known and id(parameter) not in spared
    ]
    if others or not matrices:
        what = (
            f"weight matrices in layers of unknown type ({', '.join(others[:3])})"
            if others
            else "no linear layers"
        )
        raise InputError(
            f"A block of type {type(block).__name__} has {what}.",
            "edgeprune supports Linear and Conv1D layers, and experts stacked as in Mixtral.",
        )
    return matrices


# Told of a matrix' name, the inputs it multiplies, (n, in), and which of the batch's tokens they
# are, (n,); None means all of them in order.
Watcher = Callable[[str, Tensor, Tensor | None], None]


def watch(
    block: nn.Module, matrices: dict[str, WeightView], watcher: Watcher, as_routed: bool = True
) -> list[Any]:
    """Report every input of the matrices to ``watcher`` while the block runs.

    Experts are all told of in every pass and in one order, those without a token with none, so
    that nothing depends on where a batch's tokens are sent.

    Args:
        block: the block.
        matrices: the matrices to watch.
        watcher: called with each input.
        as_routed: whether an expert gets only the tokens routed to it; otherwise it gets all
            tokens.

    Returns:
        Hook handles; call ``remove()`` on each when done.
    """

    def linear_hook(name: str) -> Any:
        return lambda _module, args: watcher(name, args[0], None)

    def experts_hook(names: dict[int, list[str]]) -> Any:
        def tell(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, chosen = experts.routed(args, kwargs)
            for expert, its in names.items():
                tokens = (chosen == expert).any(-1).nonzero()[:, 0] if as_routed else None
                inputs = hidden if tokens is None else hidden[tokens]
                for name in its:
                    last = matrices[name].parameter.endswith(".down_proj")
                    watcher(
                        name,
                        experts.inner_states(module, expert, inputs) if last else inputs,
                        tokens,
                    )

        return tell

    handles = []
    stacks: dict[str, dict[int, list[str]]] = {}
    for name, matrix in matrices.items():
        if matrix.expert is None:
            module = block.get_submodule(matrix.module)
            handles.append(module.register_forward_pre_hook(linear_hook(name)))
        else:
            stacks.setdefault(matrix.module, {}).setdefault(matrix.expert, []).append(name)
    for module_name, names in stacks.items():
        module = block.get_submodule(module_name)
        handles.append(module.register_forward_pre_hook(experts_hook(names), with_kwargs=True))
    return handles
