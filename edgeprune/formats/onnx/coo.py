"""``.coo.onnx``: pruned matrices as ONNX's own ``sparse_initializer``, for tools that need it.

It lists every non-zero with its place, eight bytes each, so that a file is larger than the dense
one below some 67 % sparsity (float32) or 80 % (float16); and onnxruntime makes it dense when it
loads it, so that nothing runs faster.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.formats.onnx.data import ExternalData, atomic_model
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.onnx.packed import is_packed, total_bytes
from edgeprune.support.errors import CheckFailed, InputError, UsageError

__all__ = ["pack", "total_bytes"]

_MOST_BYTES = 2**31 - 1  # of a model file; listed weights have to stand in it
Advance = Callable[[int], None]


def pack(source: Path, target: Path, advance: Advance = lambda _bytes: None) -> dict[str, int]:
    """Write ``target`` and its data, and check that they restore the source's weights.

    Returns:
        As `edgeprune.formats.onnx.packed.pack`.

    Raises:
        UsageError: the source has no pruned float matrices: the zero of a quantised one is a
            code like any other.
        InputError: it is not a valid ONNX file, or its non-zeros take more than 2 GiB.
    """
    from onnx import TensorProto

    file = OnnxFile(source)
    chosen = [t for t in file.tensors if t.properties.get("edgeprune.pruned") and _is_listable(t)]
    if is_packed(file) or file.lists_weights or not chosen:
        raise UsageError(
            f"{source} has no pruned float matrices.",
            "Build it with --type fp16 or fp32, and without --pack.",
        )
    names = {tensor.name for tensor in chosen}
    model = type(file.model)()
    model.CopyFrom(file.model)
    del model.graph.initializer[:]
    before = after = 0
    with atomic_model(target) as temporary:
        data = temporary.with_name(f"{target.name}.data")
        with ExternalData(data, data.name) as external:
            for tensor in file.model.graph.initializer:
                own = {p.key: p.value for p in tensor.metadata_props}
                array = file.array(tensor.name)
                if tensor.name in names:
                    model.graph.sparse_initializer.append(_listed(tensor.name, array, own))
                    before += array.nbytes
                    after += int(np.count_nonzero(array)) * (array.itemsize + 8)
                    if after > _MOST_BYTES:
                        raise InputError(
                            f"The non-zeros of {source} take more than 2 GiB, the limit of an "
                            "ONNX file."
                        )
                elif tensor.data_location == TensorProto.EXTERNAL:
                    model.graph.initializer.append(external.add(tensor.name, array, own))
                else:
                    model.graph.initializer.append(tensor)
                advance(array.nbytes)
        temporary.write_bytes(model.SerializeToString())
        _check(file, OnnxFile(temporary), names)
    return {
        "bytes": sum(path.stat().st_size for path in file.files),
        "packed_bytes": sum(path.stat().st_size for path in OnnxFile(target).files),
        "tensors": len(names),
        "tensor_bytes": before,
        "packed_tensor_bytes": after,
    }


def _listed(name: str, array: np.ndarray, properties: dict[str, str]) -> Any:
    """A matrix as its non-zeros and their places."""
    from onnx import SparseTensorProto, numpy_helper

    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    listed = SparseTensorProto(
        values=numpy_helper.from_array(flat[places], name),
        indices=numpy_helper.from_array(places.astype(np.int64)),
        dims=array.shape,
    )
    for key, value in properties.items():
        listed.values.metadata_props.add(key=key, value=value)
    return listed


def _is_listable(tensor: Any) -> bool:
    return tensor.type in {"FP32", "FP16"} and len(tensor.shape) == 2


def _check(source: OnnxFile, listed: OnnxFile, names: set[str]) -> None:
    for name in names:
        # Compared by value: a negative zero comes back positive.
        if not np.array_equal(listed.listed(name), source.array(name)):
            raise CheckFailed(
                f"{name} cannot be restored from its sparse form.",
                "This is a bug in edgeprune; please report it.",
            )
