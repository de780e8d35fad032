"""Looking into an artifact: what it says, and what its bytes hold."""

from pathlib import Path
from typing import Any

from edgeprune.errors import InputError
from edgeprune.sparsity import metadata as sparsity_metadata
from edgeprune.sparsity.gguf_file import GgufFile
from edgeprune.sparsity.packed_file import open_any

# Longer arrays (tokens, merges) are shown by their length.
_MAX_SHOWN_ITEMS = 8


def inspect_gguf(path: Path) -> dict[str, Any]:
    """Metadata and zeros of a GGUF file.

    Returns:
        ``metadata`` (key to value, long arrays as their length), ``sparse`` (whether edgeprune
        pruned it), and ``tensors``: name, type, shape, bytes, nonzeros, sparsity, and the
        non-zeros its metadata declares.

    Raises:
        InputError: the file can't be used.
    """
    import numpy as np

    file = open_any(path)
    sparse = sparsity_metadata.read_gguf(file)
    declared = sparse.nonzeros if sparse else {}
    tensors = []
    for tensor in file.tensors:
        try:
            values = tensor.values()
        except NotImplementedError:
            raise InputError(
                f"{path}: zeros of type {tensor.type.name} can't be counted."
            ) from None
        nonzeros, elements = int(np.count_nonzero(values)), values.size
        tensors.append(
            {
                "name": tensor.name,
                "type": tensor.type.name,
                "shape": list(tensor.shape),
                "bytes": tensor.size,
                "nonzeros": nonzeros,
                "sparsity": 1 - nonzeros / elements if elements else 0.0,
                "declared_nonzeros": declared.get(tensor.name),
            }
        )
    return {
        "metadata": {key: _shown(file, key) for key in file},
        "sparse": sparse is not None,
        "tensors": tensors,
    }


def _shown(file: GgufFile, key: str) -> Any:
    length = file.length(key)
    if length is not None and length > _MAX_SHOWN_ITEMS:
        return f"[{length} items]"
    return file.get(key)
