"""Plan the tensors of the file, with names and types, without reading them."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, TensorNameMap
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES

from edgeprune.models.families import Config, Family, head_dim
from edgeprune.planning.grid import FILE_BLOCK, Grid
from edgeprune.planning.tensors import ModelPlan, Storage, TensorPlan
from edgeprune.planning.types import WeightType
from edgeprune.support.errors import InputError, UsageError
from exporters.base import Model, StorageRequest
from exporters.gguf.grids import GRIDS
from exporters.gguf.mixes import fitting, storage_type
from exporters.gguf.rope import rope_tensors
from exporters.gguf.types import TYPES

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
# File types whose names don't follow from the weight type's.
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "Q3_K": LlamaFileType.MOSTLY_Q3_K_M,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": LlamaFileType.MOSTLY_Q5_K_S,
    "MXFP4": LlamaFileType.MOSTLY_MXFP4_MOE,
}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to be written.

    Attributes:
        name: the tensor's name in the file.
        source: the tensor's name in the checkpoint.
        shape: as in the checkpoint, (out, in) or (n,).
        type: storage type.
        alphabet: the only codes of it that are used; None: all.
        heads: number of attention heads whose rows are interleaved for llama.cpp's rotary order; 0:
            none.
        shift: number added to its values.
        given: its values, if they come from the configuration; ``source`` is then empty.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    alphabet: Grid | None = None
    heads: int = 0
    shift: float = 0.0
    given: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Return the size in the file."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // block * block_bytes

    @property
    def row(self) -> TensorPlan:
        """Convert the tensor to the rows of all targets."""
        grid = self.alphabet or GRIDS.get(self.type.name)
        storage = Storage(self.type.name, self.bytes, grid, self.alphabet)
        return TensorPlan(self.source, self.name, self.shape, storage)

    def obeying(self, plan: ModelPlan) -> "PlannedTensor":
        """Return the tensor in the type that a plan gives it."""
        if not self.source:
            return self
        stored = plan.tensors[self.source].storage
        kind = GGMLQuantizationType[stored.type]
        return replace(self, type=kind, alphabet=stored.alphabet)


def plan_tensors(
    model: Model, config: Config, family: Family, wanted: StorageRequest
) -> list[PlannedTensor]:
    """Lay out the file as llama.cpp's converter does: the embedding first, then the blocks.

    Raises:
        InputError: a tensor of the checkpoint has no place in the architecture.
    """
    names = TensorNameMap(arch_of(family), config["num_hidden_layers"])
    planned, tied = [], family.is_tied(config)
    for source in model.weights.names():
        if source.endswith("rotary_emb.inv_freq"):
            continue  # computed, not learnt
        if tied and source == "lm_head.weight":
            continue  # llama.cpp reads a missing head as tied
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InputError(
                f"The architecture {family.gguf.name} has no place for the tensor {source}."
            )
        shape = model.weights.shape(source)
        planned.append(
            PlannedTensor(
                name,
                source,
                shape,
                *stored_as(name, shape, wanted, config["num_hidden_layers"], tied),
                _heads(source, config) if family.gguf.permutes_rotary else 0,
                family.norm_shift if source.endswith("norm.weight") else 0.0,
            )
        )
    for expression, _ in wanted.overrides:
        if not any(re.search(expression, tensor.name) for tensor in planned):
            raise UsageError(
                f"artifact.type_map: '{expression}' matches no tensor of the file.",
                f"Names look like {planned[-1].name}.",
            )
    if not any(tensor.name == _EMBEDDING for tensor in planned):
        raise InputError("The checkpoint has no token embedding.", "Download the checkpoint again.")
    for name, values in rope_tensors(config, head_dim(config)).items():
        kind = GGMLQuantizationType.F32
        planned.append(PlannedTensor(name, "", values.shape, kind, given=values))
    return sorted(planned, key=_file_order)


def arch_of(family: Family) -> MODEL_ARCH:
    """Return the gguf package's number of an architecture."""
    return next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.gguf.name)


def stored_as(
    name: str, shape: tuple[int, ...], wanted: StorageRequest, blocks: int, tied: bool
) -> tuple[GGMLQuantizationType, Grid | None]:
    """Choose a tensor's type, and its alphabet if it has one, by its name in the file.

    Args:
        name: the tensor's name in the file.
        shape: (out, in), or (n,).
        wanted: types set by the user.
        blocks: number of decoder blocks.
        tied: whether the embedding is also the output head.
    """
    columns = shape[-1]
    if len(shape) < 2:
        return GGMLQuantizationType.F32, None  # norms and biases are tiny and sensitive
    for expression, other in wanted.overrides:
        if re.search(expression, name):
            return _single(TYPES[other], columns)
    embedding = name == _EMBEDDING
    if own := wanted.of_vocabulary(embedding, name == _HEAD or (embedding and tied)):
        return _single(TYPES[own], columns)
    asked = TYPES[wanted.type]
    found = storage_type(asked, name, columns, blocks, tied)
    inside = name.startswith("blk.")
    return found, _fitting(asked, columns) if inside and found.name == asked.base else None


def _single(kind: WeightType, columns: int) -> tuple[GGMLQuantizationType, Grid | None]:
    return fitting(GGMLQuantizationType[kind.base], columns), _fitting(kind, columns)


def _fitting(kind: WeightType, columns: int) -> Grid | None:
    """Return a type's alphabet, with scales for as many weights as divide a row."""
    grid = kind.alphabet
    while grid and grid.block > FILE_BLOCK and columns % grid.block:
        grid = replace(grid, block=grid.block // 2)
    return grid if grid and columns % grid.block == 0 else None


def file_type(wanted: StorageRequest) -> LlamaFileType:
    """Return ``general.file_type``: the type of most matrices, or the mix."""
    kind = TYPES[wanted.type]
    name = f"MOSTLY_{kind.mix if kind.mix and not kind.keeps_zeros else kind.base}"
    return LlamaFileType.__members__.get(name) or _FILE_TYPES.get(kind.base, LlamaFileType.GUESSED)


def _heads(source: str, config: Config) -> int:
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


class Rows:
    """A tensor in llama.cpp's row order, converted to float32 slice by slice.

    Args:
        stored: (out, ...), in any type of floats.
        shift: number added to the values.

    Attributes:
        shape: shape of the tensor.
    """

    def __init__(self, stored: "Tensor", shift: float = 0.0):
        self._stored, self._shift = stored, shift
        self.shape = tuple(stored.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = _floats(self._stored[rows])
        return part + np.float32(self._shift) if self._shift else part


def _floats(stored: "Tensor") -> np.ndarray:
    """Convert to float32 in this thread: torch would start more threads for each caller."""
    import torch

    if stored.dtype == torch.float16:
        return stored.numpy().astype(np.float32)
    if stored.dtype != torch.bfloat16:
        return stored.float().numpy()
    wide = stored.view(torch.int16).numpy().astype(np.uint32)  # the upper halves of float32's bits
    wide <<= 16
    return wide.view(np.float32)


def read_rows(model: Model, tensor: PlannedTensor) -> "Rows | np.ndarray":
    """Read a tensor's values; an array if they come from the configuration.

    Rows are moved whole, so that zeros and N:M groups, which run along the input, stay as they are.
    """
    if tensor.given is not None:
        return tensor.given
    return Rows(in_file_order(model.weights.read(tensor.source), tensor), tensor.shift)


def in_file_order(rows: Any, tensor: PlannedTensor) -> Any:
    """Reorder rows, (out, ...), to llama.cpp's order."""
    if not tensor.heads:
        return rows
    halves = rows.reshape(tensor.heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
