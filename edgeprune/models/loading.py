"""Load models and tokenizers with transformers, without running code from checkpoints."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgeprune.models.library import transformers
from edgeprune.models.stored import stored_tensors
from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.formats.weights import Weights
    from edgeprune.models.blocks import WeightView
    from edgeprune.models.checkpoint import Checkpoint


def load_model(
    checkpoint: "Checkpoint", dtype: Any = "auto", weights: "Weights | None" = None
) -> Any:
    """Load the whole model in evaluation mode, in its stored type unless ``dtype`` is given.

    Args:
        checkpoint: the checkpoint to open.
        dtype: type of all weights; each is converted on its own, as it is read.
        weights: weights to read instead of the checkpoint's own, under the same names.

    Raises:
        InputError: transformers does not support the architecture, or files are damaged.
    """
    if weights is None:
        return _open("AutoModelForCausalLM", checkpoint, dtype=dtype, use_safetensors=True).eval()
    import torch

    config = _open("AutoConfig", checkpoint)
    known = transformers().AutoModelForCausalLM
    with torch.device("meta"):  # only to know its class: the automatic one wants a folder
        kind = type(known.from_config(config, trust_remote_code=False))
    tensors = {name: weights.read(name) for name in weights.names()}  # mapped, not yet in memory
    return kind.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, local_files_only=True
    ).eval()


def load_tokenizer(checkpoint: "Checkpoint") -> Any:
    """Load the checkpoint's tokenizer."""
    return _open("AutoTokenizer", checkpoint)


def stored_names(
    model: Any,
    prefix: str,
    block: "nn.Module",
    matrices: "dict[str, WeightView]",
    stored: Collection[str],
) -> dict[str, str]:
    """Map a block's matrices to their names in the checkpoint.

    A matrix that is only part of a tensor in the checkpoint gets a name of the same form.

    Args:
        model: the model from `load_model`.
        prefix: prefix of the block's parameters in the model.
        block: the block.
        matrices: the block's matrices.
        stored: the names in the checkpoint.

    Raises:
        InputError: as `stored_tensors`.
    """
    import torch

    # Every weight is labelled with the number of its matrix, and the labels are stored.
    parameters = {matrix.parameter for matrix in matrices.values()}
    labels = {
        parameter: torch.zeros(block.get_parameter(parameter).shape, dtype=torch.int16)
        for parameter in sorted(parameters)
    }
    for number, matrix in enumerate(matrices.values()):
        matrix.view(labels[matrix.parameter]).fill_(number)
    names, sizes = list(matrices), [m.view(labels[m.parameter]).numel() for m in matrices.values()]
    result = {name: prefix + name for name in names}
    labelled = {prefix + parameter: label for parameter, label in labels.items()}
    for name, label in stored_tensors(model, labelled, stored).items():
        low, high = (int(number) for number in label.aminmax())
        if low == high and label.numel() == sizes[low]:
            result[names[low]] = name
    return result


def embedding_names(model: Any, stored: Collection[str]) -> dict[str, str]:
    """Map embedding and output head to their names in the checkpoint; tied ones are one tensor.

    Args:
        model: the model from `load_model`.
        stored: the names in the checkpoint.

    Raises:
        InputError: as `stored_tensors`.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [layer.weight for layer in layers if layer is not None]
    return {
        name: next(iter(stored_tensors(model, {name: parameter}, stored)))
        for name, parameter in model.named_parameters()
        if any(parameter is weight for weight in weights)
    }


def _open(kind: str, checkpoint: "Checkpoint", **options: Any) -> Any:
    try:
        return getattr(transformers(), kind).from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True, **options
        )
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"transformers cannot open {checkpoint.source}: {reason}",
            "edgeprune supports only architectures that are part of transformers; it never runs "
            "code from a checkpoint.",
        ) from None
