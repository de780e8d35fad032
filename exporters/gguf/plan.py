"""Which tensors go into the file, under which names, in which types. Nothing is read yet."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, LlamaFileType, TensorNameMap

from edgeprune.errors import InputError
from exporters.artifact import Model
from exporters.gguf.architectures import Architecture

# Type asked for -> (matrices in blocks, embedding and head). A 4-bit head costs more than it saves.
TYPES = {
    "f32": (GGMLQuantizationType.F32, GGMLQuantizationType.F32),
    "f16": (GGMLQuantizationType.F16, GGMLQuantizationType.F16),
    "bf16": (GGMLQuantizationType.BF16, GGMLQuantizationType.BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0),
}
FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
_HEADS = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to be written.

    Attributes:
        name: in the file.
        source: in the checkpoint.
        shape: as in the checkpoint, (out, in) or (n,).
        type: storage type.
        heads: attention heads whose rows are interleaved for llama.cpp's rotary order; 0: none.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    heads: int

    @property
    def bytes(self) -> int:
        """Size in the file."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // block * block_bytes


def plan_tensors(
    model: Model, config: dict[str, Any], architecture: Architecture, type_name: str
) -> list[PlannedTensor]:
    """Lay out the file: embedding first, then the blocks in order, as llama.cpp's converter does.

    Raises:
        InputError: a tensor of the checkpoint has no place in the architecture.
    """
    names = TensorNameMap(_arch(architecture), config["num_hidden_layers"])
    planned = []
    for source in model.weights.names():
        if source.endswith("rotary_emb.inv_freq"):
            continue  # computed, not learnt
        if config.get("tie_word_embeddings") and source == "lm_head.weight":
            continue  # llama.cpp reads a missing head as tied
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InputError(f"The tensor {source} has no place in a {architecture.gguf} model.")
        shape = model.weights.shape(source)
        planned.append(
            PlannedTensor(
                name,
                source,
                shape,
                _type(name, shape, type_name),
                _heads(source, config) if architecture.permutes_rotary else 0,
            )
        )
    if not any(tensor.name == "token_embd.weight" for tensor in planned):
        raise InputError("The checkpoint holds no token embedding.", "Fetch it again.")
    return sorted(planned, key=_file_order)


def _arch(architecture: Architecture) -> MODEL_ARCH:
    return MODEL_ARCH[architecture.gguf.upper()]


def _type(name: str, shape: tuple[int, ...], type_name: str) -> GGMLQuantizationType:
    if len(shape) < 2:
        return GGMLQuantizationType.F32  # norms and biases are tiny and sensitive
    wanted = TYPES[type_name][name in _HEADS]
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else GGMLQuantizationType.F16


def _heads(source: str, config: dict[str, Any]) -> int:
    heads = int(config["num_attention_heads"])
    if "q_proj" in source:
        return heads
    if "k_proj" in source:
        return int(config.get("num_key_value_heads") or heads)
    return 0


def _file_order(tensor: PlannedTensor) -> tuple[int, int, str]:
    parts = tensor.name.split(".")
    if parts[0] == "blk":
        return 1, int(parts[1]), tensor.name
    return (0 if tensor.name.startswith("token_embd") else 2), 0, tensor.name


def read_rows(model: Model, tensor: PlannedTensor) -> np.ndarray:
    """A tensor in float32 and in llama.cpp's row order.

    Rows are moved whole, so that zeros and N:M groups, which run along the input, stay as they are.
    """
    values = model.weights.read(tensor.source).float().numpy()
    if not tensor.heads:
        return values
    halves = values.reshape(tensor.heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
