"""Looking into an artifact: what it says, and what its bytes hold."""

from pathlib import Path
from typing import Any

from edgeprune.errors import InputError
from edgeprune.sparsity import metadata as sparsity_metadata
from edgeprune.sparsity.gguf_file import field, open_gguf

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
    from gguf import quants

    reader = open_gguf(path)
    sparse = sparsity_metadata.read_gguf(reader)
    declared = sparse.nonzeros if sparse else {}
    tensors = []
    for tensor in reader.tensors:
        try:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise InputError(
                f"{path}: zeros of type {tensor.tensor_type.name} can't be counted."
            ) from None
        nonzeros, elements = int(np.count_nonzero(values)), int(tensor.n_elements)
        tensors.append(
            {
                "name": tensor.name,
                "type": tensor.tensor_type.name,
                "shape": [int(n) for n in reversed(tensor.shape)],
                "bytes": int(tensor.n_bytes),
                "nonzeros": nonzeros,
                "sparsity": 1 - nonzeros / elements if elements else 0.0,
                "declared_nonzeros": declared.get(tensor.name),
            }
        )
    return {
        "metadata": {
            key: _shown(field(reader, key)) for key in reader.fields if not key.startswith("GGUF.")
        },
        "sparse": sparse is not None,
        "tensors": tensors,
    }


def _shown(value: Any) -> Any:
    if isinstance(value, list) and len(value) > _MAX_SHOWN_ITEMS:
        return f"[{len(value)} items]"
    return value
