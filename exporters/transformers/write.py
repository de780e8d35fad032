"""Safetensors files, one tensor in memory at a time."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.formats.weights import Weights
from edgeprune.planning.tensors import TensorPlan
from edgeprune.support.files import write_json
from exporters.transformers.plan import BYTES

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# As `save_pretrained` cuts large models.
_SHARD = "5GB"
_ALIGNMENT = 8


def write_weights(
    folder: Path,
    weights: Weights,
    tensors: Sequence[TensorPlan],
    made_by: str,
    advance: Callable[[], None],
    shard: str = _SHARD,
) -> None:
    """Write ``model.safetensors``, or shards of it with their index.

    Args:
        folder: where.
        weights: what is written.
        tensors: how each is stored.
        made_by: named in every file.
        advance: told of every tensor.
        shard: the most bytes of a file, such as ``5GB``.
    """
    from huggingface_hub.serialization import split_state_dict_into_shards_factory

    rows = {row.name: row for row in tensors}
    split = split_state_dict_into_shards_factory(
        rows,
        get_storage_size=lambda row: row.storage.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard,
    )
    for file, names in split.filename_to_tensors.items():
        _write_file(folder / file, weights, [rows[name] for name in names], made_by, advance)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def _write_file(
    path: Path,
    weights: Weights,
    tensors: list[TensorPlan],
    made_by: str,
    advance: Callable[[], None],
) -> None:
    """Length of the header, header, data; the widest types first, so that each is aligned."""
    tensors = sorted(tensors, key=lambda row: -BYTES[row.storage.type])
    header: dict[str, object] = {"__metadata__": {"format": "pt", "quantized_by": made_by}}
    end = 0
    for row in tensors:
        start, end = end, end + row.storage.bytes
        header[row.name] = {
            "dtype": row.storage.type, "shape": list(row.shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for row in tensors:
            _bytes(weights.read(row.name), DTYPES[row.storage.type]).tofile(file)
            advance()


def _bytes(value: Tensor, dtype: torch.dtype) -> np.ndarray:
    stored = (value + 0.0).to(dtype).contiguous()  # a pruned weight may be -0
    return stored.view(-1).view(torch.uint8).numpy()
