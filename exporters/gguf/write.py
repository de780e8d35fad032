"""Writing the file, tensor by tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, Metadata, quants, size_label
from gguf.constants import GGML_QUANT_VERSION, GGMLQuantizationType

from edgeprune.sparsity.gguf_file import open_gguf
from edgeprune.sparsity.metadata import SCHEMA, SparsityMetadata
from exporters.artifact import Model
from exporters.gguf.architectures import Architecture, write_hyperparameters
from exporters.gguf.plan import FILE_TYPES, PlannedTensor, read_rows
from exporters.gguf.tokenizer import copy_fields, write_from_folder

# Keys of a source GGUF that describe how it was stored, not what the model is.
_STORAGE_KEYS = (
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
    "general.quantized_by",
)


def write(
    path: Path,
    model: Model,
    config: dict[str, Any],
    architecture: Architecture,
    tensors: list[PlannedTensor],
    type_name: str,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    advance: Callable[[], None],
) -> SparsityMetadata | None:
    """Write a GGUF file; returns the metadata with the non-zeros that were written.

    The header holds those counts and stands before the data, so the data waits in the writer's
    spool (memory up to 256 MB, then a temporary file) until all of it is known.
    """
    writer = GGUFWriter(path, architecture.gguf, use_temp_file=True)
    nonzeros: dict[str, int] = {}
    for tensor in tensors:
        data = quantize(read_rows(model, tensor), tensor.type)
        if tensor.source in model.pruned:
            nonzeros[tensor.name] = int(np.count_nonzero(quants.dequantize(data, tensor.type)))
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.type)
        advance()
    source = open_gguf(model.gguf) if model.gguf else None
    parameters = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    _write_general(writer, model.folder, source, parameters)
    writer.add_quantized_by(quantized_by)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[type_name])
    write_hyperparameters(writer, config)
    if source:
        copy_fields(writer, source, "tokenizer.")
    else:
        write_from_folder(writer, model.folder, config["vocab_size"])
    written = None
    if metadata:
        written = SparsityMetadata(**{**vars(metadata), "nonzeros": nonzeros})
        _write_sparsity(writer, written)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def quantize(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Float32 values as the bytes of a GGUF type."""
    return values if kind == GGMLQuantizationType.F32 else quants.quantize(values, kind)


def _write_general(
    writer: GGUFWriter, folder: Path, source: GGUFReader | None, parameters: int
) -> None:
    """What the model is: as its GGUF file says, or as llama.cpp's converter reads a folder."""
    label = size_label(parameters, 0, 0, 0)
    if source:
        copy_fields(writer, source, "general.", except_for=_STORAGE_KEYS)
        if "general.size_label" not in source.fields:
            writer.add_size_label(label)
    else:
        described = Metadata.load(model_path=folder, total_params=parameters)
        described.size_label = described.size_label or label
        described.set_gguf_meta_model(writer)
        writer.add_type("model")


def _write_sparsity(writer: GGUFWriter, metadata: SparsityMetadata) -> None:
    writer.add_uint32("edgeprune.schema", SCHEMA)
    writer.add_string("edgeprune.sparsity.pattern", metadata.pattern)
    writer.add_float32("edgeprune.sparsity.target", metadata.target)
    writer.add_array("edgeprune.sparsity.tensors", list(metadata.nonzeros))
    writer.add_key_value(
        "edgeprune.sparsity.nonzeros",
        list(metadata.nonzeros.values()),
        GGUFValueType.ARRAY,
        GGUFValueType.UINT64,
    )
    writer.add_string("edgeprune.method", metadata.method)
    writer.add_string("edgeprune.fusion", metadata.fusion)
    writer.add_string("edgeprune.task", metadata.task)
    writer.add_string("edgeprune.recipe", json.dumps(metadata.recipe, sort_keys=True))
    writer.add_string("edgeprune.base.sha256", metadata.base_sha256)
    writer.add_string("edgeprune.manifest", metadata.to_json())
