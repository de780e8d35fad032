"""Write the file, one tensor at a time."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGUFValueType, Metadata, size_label
from gguf.constants import GGML_QUANT_VERSION

from edgeprune.formats.gguf.file import GgufFile, open_gguf
from edgeprune.formats.metadata import SCHEMA, SparsityMetadata
from edgeprune.models.families import Config, Family
from edgeprune.support.environment import cores
from exporters.base import Model, StorageRequest
from exporters.gguf.encode import encode
from exporters.gguf.hyperparameters import write_hyperparameters
from exporters.gguf.plan import PlannedTensor, file_type
from exporters.gguf.tokenizer import write_from_folder
from exporters.gguf.writer import Writer, copy_fields

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
    config: Config,
    family: Family,
    tensors: list[PlannedTensor],
    wanted: StorageRequest,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    advance: Callable[[], None],
) -> None:
    """Write a GGUF file, with no more tensors in memory than `encode` holds.

    The header comes before the data but holds counts of non-zeros that are known only after it:
    they are first written as large as possible, for `set_counts` to correct.
    """
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        encoded = encode(pool, threads, model, tensors)  # begins beside the header
        writer = Writer(path, family.gguf.name)
        source = open_gguf(model.gguf) if model.gguf else None
        parameters = sum(int(np.prod(tensor.shape)) for tensor in tensors)
        _write_general(writer, model.folder, source, parameters)
        writer.add_quantized_by(quantized_by)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        writer.add_file_type(file_type(wanted))
        write_hyperparameters(writer, config, family)
        if source:
            copy_fields(writer, source, "tokenizer.")
        else:
            rows = next(t.shape[0] for t in tensors if t.name == "token_embd.weight")
            write_from_folder(writer, model.folder, rows)
        if metadata:
            most = {t.name: int(np.prod(t.shape)) for t in tensors if t.source in model.pruned}
            _write_sparsity(writer, replace(metadata, nonzeros=most))
        if narrow := {t.name: t.alphabet.name for t in tensors if t.alphabet}:
            writer.add_array("edgeprune.storage.tensors", list(narrow))
            writer.add_array("edgeprune.storage.codes", list(narrow.values()))
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.type
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _ in tensors:
            writer.write_tensor_data(next(encoded))  # by no name: it would outlive its turn
            advance()
        writer.close()


def _write_general(writer: Writer, folder: Path, source: GgufFile | None, parameters: int) -> None:
    """Write the model's description: from its GGUF file, or as llama.cpp's converter does."""
    label = size_label(parameters, 0, 0, 0)
    if source:
        copy_fields(writer, source, "general.", except_for=_STORAGE_KEYS)
        if "general.size_label" not in source:
            writer.add_size_label(label)
    else:
        described = Metadata.load(model_path=folder, total_params=parameters)
        described.size_label = described.size_label or label
        described.set_gguf_meta_model(writer)
        writer.add_type("model")


def _write_sparsity(writer: Writer, metadata: SparsityMetadata) -> None:
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
    writer.add_string("edgeprune.recipe", json.dumps(metadata.recipe))
    writer.add_string("edgeprune.base.sha256", metadata.base_sha256)
    writer.add_string("edgeprune.manifest", metadata.to_json())


def set_counts(path: Path, file: GgufFile, metadata: SparsityMetadata) -> None:
    """Set the counts in a finished file to those of ``metadata``, whose text must not be longer.

    Args:
        path: path of the file.
        file: the same file, open; it shows the changes.
        metadata: metadata with the counts.
    """
    counts, room = file.place("edgeprune.sparsity.nonzeros"), file.place("edgeprune.manifest")
    with path.open("r+b") as raw:
        raw.seek(counts[0])
        raw.write(np.array(list(metadata.nonzeros.values()), "<u8").tobytes())
        raw.seek(room[0])
        raw.write(metadata.to_json().encode().ljust(room[1]))
