"""Mixture-of-experts layers as transformers 5 keeps them: the experts' weights in two tensors.

``gate_up_proj`` is (experts, 2 inner, width), the gate's rows before the up projection's, and
``down_proj`` is (experts, width, inner). Mixtral, Qwen MoE, OLMoE, DeepSeek and most others share
this layout; transposed, interleaved, biased and gateless ones (gpt-oss, Aria, Nemotron-H) don't.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

# What transformers' `use_experts_implementation` says of a module with the layout above. Modules
# without these marks compute something of their own and are left to be refused.
_LAYOUT = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
# Children that stand beside the experts and choose or scale them. They are tiny, and pruning them
# would send tokens elsewhere.
_ROUTERS = ("gate", "router", "shared_expert_gate")


def holds_experts(module: nn.Module) -> bool:
    """Tell whether a module stacks its experts in the layout above."""
    if any(getattr(module, mark, None) is not value for mark, value in _LAYOUT.items()):
        return False
    up, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if not (isinstance(up, Tensor) and isinstance(down, Tensor) and up.dim() == down.dim() == 3):
        return False
    experts, width, inner = down.shape
    return up.shape == (experts, 2 * inner, width)


def expert_parts(module: nn.Module) -> Iterator[tuple[str, str, int, tuple[int, int] | None]]:
    """List every expert's matrices: name, parameter, expert, and rows if not all of them.

    Names are those that most checkpoints use, ``3.gate_proj.weight``.
    """
    experts, _, inner = module.down_proj.shape  # type: ignore[union-attr, misc]
    for expert in range(experts):
        yield f"{expert}.gate_proj.weight", "gate_up_proj", expert, (0, inner)
        yield f"{expert}.up_proj.weight", "gate_up_proj", expert, (inner, 2 * inner)
        yield f"{expert}.down_proj.weight", "down_proj", expert, None


def routers(block: nn.Module) -> list[nn.Module]:
    """List the modules that choose or scale experts; they stay dense."""
    beside = [
        block.get_submodule(name.rpartition(".")[0])
        for name, module in block.named_modules()
        if holds_experts(module)
    ]
    return [
        child
        for parent in beside
        for name, child in parent.named_children()
        if name in _ROUTERS
    ]  # fmt: skip


def routed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The tokens an experts module is called with, (n, width), and each one's experts, (n, k)."""
    named = dict(zip(("hidden_states", "top_k_index"), args, strict=False)) | kwargs
    hidden, chosen = named["hidden_states"], named["top_k_index"]
    return hidden.flatten(0, -2), chosen.flatten(0, -2)


def inner_states(module: Any, expert: int, inputs: Tensor) -> Tensor:
    """Compute the input of one expert's ``down_proj`` from the expert's input, (n, width)."""
    return module._apply_gate(nn.functional.linear(inputs, module.gate_up_proj[expert]))
