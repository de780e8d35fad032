"""Inspect an artifact: its metadata, and the zeros in its bytes."""

from pathlib import Path
from typing import Any, NamedTuple

from edgeprune.formats import metadata as sparsity_metadata
from edgeprune.formats.gguf.file import GgufFile
from edgeprune.formats.gguf.packed import open_any
from edgeprune.formats.weights import Weights, weight_files
from edgeprune.support.errors import InputError
from edgeprune.support.files import read_json

# Longer arrays (tokens, merges) are shown by their length.
_MAX_SHOWN_ITEMS = 8


def inspect(path: Path) -> dict[str, Any]:
    """Metadata and zeros of a GGUF file, of an ONNX model by its name, or of a folder's weights.

    Returns:
        ``metadata`` (key to value, long arrays as their length), ``sparse`` (whether edgeprune
        pruned it), and ``tensors``: name, type, shape, bytes, nonzeros, sparsity, and the
        non-zeros its metadata declares.

    Raises:
        InputError: the artifact can't be used.
    """
    if path.is_dir():
        return _inspect_folder(path)
    return _inspect_onnx(path) if path.suffix == ".onnx" else _inspect_gguf(path)


def _inspect_gguf(path: Path) -> dict[str, Any]:
    file = open_any(path)
    sparse = sparsity_metadata.read_gguf(file)
    declared = sparse.nonzeros if sparse else {}
    tensors = []
    for tensor in file.tensors:
        try:
            values = tensor.values()
        except NotImplementedError:
            raise InputError(
                f"{path}: edgeprune cannot count zeros of type {tensor.type.name}."
            ) from None
        tensors.append(_counted(tensor, tensor.type.name, values, declared))
    return {
        "metadata": {key: _shown(file, key) for key in file},
        "sparse": sparse is not None,
        "tensors": tensors,
    }


def _inspect_onnx(path: Path) -> dict[str, Any]:
    from edgeprune.formats.onnx.file import OnnxFile
    from edgeprune.formats.onnx.metadata import read_onnx

    model = OnnxFile(path)
    sparse = read_onnx(model.properties)
    declared = sparse.nonzeros if sparse else {}
    return {
        "metadata": {"producer": model.model.producer_name, **model.properties},
        "sparse": sparse is not None,
        "tensors": [_counted(t, t.type, t.values(), declared) for t in model.tensors],
    }


def _inspect_folder(folder: Path) -> dict[str, Any]:
    from edgeprune.formats.safetensors import read_folder

    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} holds no weights as .safetensors.")
    weights, sparse = Weights(files), read_folder(folder)
    declared = sparse.nonzeros if sparse else {}
    config = read_json(folder / "config.json") or {}
    tensors = []
    for name in weights.names():
        stored = weights.read(name)
        tensor = _Tensor(name, tuple(stored.shape), stored.nbytes)
        tensors.append(_counted(tensor, weights.dtype(name), stored.float().numpy(), declared))
    named = {key: config[key] for key in ("model_type", "dtype", "torch_dtype") if key in config}
    return {
        "metadata": named | (sparse.properties() if sparse else {}),
        "sparse": sparse is not None,
        "tensors": tensors,
    }


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    size: int


def _counted(tensor: Any, kind: str, values: Any, declared: dict[str, int]) -> dict[str, Any]:
    import numpy as np

    nonzeros, elements = int(np.count_nonzero(values)), values.size
    return {
        "name": tensor.name,
        "type": kind,
        "shape": list(tensor.shape),
        "bytes": tensor.size,
        "nonzeros": nonzeros,
        "sparsity": 1 - nonzeros / elements if elements else 0.0,
        "declared_nonzeros": declared.get(tensor.name),
    }


def _shown(file: GgufFile, key: str) -> Any:
    length = file.length(key)
    if length is not None and length > _MAX_SHOWN_ITEMS:
        return f"[{length} items]"
    return file.get(key)
