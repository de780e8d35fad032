"""Convert a loaded model's tensors back to the names and shapes of its checkpoint."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgeprune.support.errors import InputError

if TYPE_CHECKING:  # `edgeprune plan` runs without torch
    from torch import Tensor


def stored_tensors(
    model: Any, tensors: "dict[str, Tensor]", stored: Collection[str]
) -> "dict[str, Tensor]":
    """Convert tensors of a loaded model to the names and shapes of its checkpoint.

    transformers may load a checkpoint into other names and shapes than it is stored in, such as all
    experts of a layer in one tensor. It remembers what it did and can undo it. It does not remember
    that a checkpoint of the bare model lacked the prefix of the whole one (``transformer.`` of
    GPT-2), so that is looked up here.

    Args:
        model: the model as transformers opened it.
        tensors: tensors by their names in the model.
        stored: the names in the checkpoint.

    Raises:
        InputError: a tensor would get a name that the checkpoint does not have, and be lost.
    """
    from transformers.core_model_loading import revert_weight_conversion

    try:
        undone = revert_weight_conversion(model, tensors)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"transformers cannot convert {type(model).__name__} back to its checkpoint's form: "
            f"{error}",
            "Convert the checkpoint with save_pretrained(..., save_original_format=False).",
        ) from None
    prefix = f"{model.base_model_prefix}."
    result = {}
    for name, tensor in undone.items():
        choices = (name, name.removeprefix(prefix), prefix + name)
        known = next((choice for choice in choices if choice in stored), None)
        if known is None:
            raise InputError(
                f"The checkpoint of {type(model).__name__} stores {name} under an unknown name.",
                "Convert the checkpoint with save_pretrained().",
            )
        result[known] = tensor
    return result
