"""The decoder blocks of a model and the linear layers inside them."""

from torch import nn

from edgeprune.errors import InputError


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


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a block by name inside it.

    Raises:
        InputError: the block holds weight matrices in other layers, which would stay dense unseen.
    """
    layers = {
        name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)
    }
    covered = {f"{name}.weight" for name in layers}
    others = [name for name, p in block.named_parameters() if p.dim() > 1 and name not in covered]
    if others or not layers:
        what = (
            f"weight matrices outside linear layers ({', '.join(others[:3])})"
            if others
            else ("no linear layers")
        )
        raise InputError(
            f"A block of type {type(block).__name__} holds {what}.",
            "Fused and mixture-of-experts layers are not supported yet.",
        )
    return layers
