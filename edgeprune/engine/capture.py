"""Record how a model calls its blocks, with all arguments and without naming any by hand.

Research pruners name the arguments of a block and break with each new one. Here each
block's forward is replaced for one pass by a stub that records the call and hands its input on,
so that masks, rotary tables and whatever comes next are kept as the model made them.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block besides the hidden states, for batches of one shape."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def to(self, device: torch.device, dtype: torch.dtype) -> "BlockCall":
        """Return the same call with its tensors on a device, floats in the compute type."""
        return BlockCall(_moved(self.args, device, dtype), _moved(self.kwargs, device, dtype))

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run a block on (batch, length, width) hidden states."""
        output = block(hidden, *self.args, **self.kwargs)
        return output[0] if isinstance(output, tuple) else output


class _Stop(Exception):
    """Raised to end a pass that has recorded what it needs."""


@torch.no_grad()
def record_calls(
    model: nn.Module, blocks: nn.ModuleList, tokens: Tensor
) -> tuple[Tensor, list[BlockCall]]:
    """Run the model up to its last block without computing any block.

    Args:
        model: a causal language model.
        blocks: its decoder blocks.
        tokens: (batch, length).

    Returns:
        The first block's input, (batch, length, width), and the call of every block.
    """
    calls: list[BlockCall] = []
    first: list[Tensor] = []

    def stub(*args: Any, **kwargs: Any) -> Tensor:
        arguments = dict(kwargs)
        hidden = args[0] if args else arguments.pop("hidden_states")
        calls.append(BlockCall(tuple(args[1:]), arguments))
        first.append(hidden)
        if len(calls) == len(blocks):
            raise _Stop
        return hidden

    with _replaced_forwards(blocks, stub), contextlib.suppress(_Stop):
        model(input_ids=tokens, use_cache=False)
    return first[0], calls


@torch.no_grad()
def head_input(model: nn.Module, blocks: nn.ModuleList, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Compute the output head's input from the last block's output, by the final norm.

    Args:
        model: a causal language model.
        blocks: its decoder blocks.
        tokens: (batch, length); only their shape matters.
        hidden: (batch, length, width), the last block's output.

    Returns:
        (batch, length, width).
    """
    seen: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise _Stop

    head = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(stop)
    try:
        with (
            _replaced_forwards(blocks, lambda *_args, **_kwargs: hidden),
            contextlib.suppress(_Stop),
        ):
            model(input_ids=tokens, use_cache=False)
    finally:
        hook.remove()
    return seen[0]


@torch.no_grad()
def head_logits(
    model: nn.Module,
    blocks: nn.ModuleList,
    tokens: Tensor,
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute the model's logits from the last block's output and a replacement for the head.

    The model's own code still applies what follows the head, such as scaling or soft capping.

    Args:
        model: a causal language model.
        blocks: its decoder blocks.
        tokens: (batch, length); only their shape matters.
        hidden: (batch, length, width), the last block's output.
        head: maps (batch, length, width) to logits; it may leave positions out.
    """
    own_head = model.get_output_embeddings()  # type: ignore[operator]
    with (
        _replaced_forwards(blocks, lambda *_args, **_kwargs: hidden),
        _replaced_forwards([own_head], head),
    ):
        return model(input_ids=tokens, use_cache=False).logits


@contextlib.contextmanager
def _replaced_forwards(
    modules: Iterable[nn.Module], forward: Callable[..., Tensor]
) -> Iterator[None]:
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device, dtype) for key, item in value.items()}
    return value
