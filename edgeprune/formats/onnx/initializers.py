"""The initializers of an ONNX model, in the file or in external data."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.support.errors import InputError
from edgeprune.support.extras import load

_MOST_BYTES = 2**31 - 1  # protobuf's limit


class Initializers:
    """A model's graph, and its stored tensors as arrays.

    Args:
        path: the ``.onnx`` file.

    Attributes:
        model: the graph, an ``onnx.ModelProto`` without external data.
        files: all files that were read; the first is ``path``.
        tensors: initializers by name.
        listed_tensors: sparse initializers by name.

    Raises:
        InputError: the file cannot be read, or what it declares of its weights is invalid.
    """

    def __init__(self, path: Path):
        self._onnx = load("onnx")
        self._path, self._folder = path, path.resolve().parent
        self.model, self.files = self._parsed(), [path]
        if not all(isinstance(text, str) for text in _texts(self.model)):
            raise self.damaged("its names are not UTF-8")
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.listed_tensors = {s.values.name: s for s in graph.sparse_initializer}
        self._maps: dict[Path, np.ndarray] = {}

    def array(self, name: str) -> np.ndarray:
        """Read an initializer as it is stored."""
        tensor = self.tensors[name]
        dtype = self.dtype(tensor)
        if tensor.data_location != self._onnx.TensorProto.EXTERNAL:
            try:
                return self._onnx.numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise self.damaged(f"{name}: {error}") from None
        data, offset, length = self._place(tensor)
        if length != self.bytes(tensor, dtype):
            raise self.damaged(
                f"{name} has {length} bytes, the wrong size for the shape {list(tensor.dims)}"
            )
        part = data[offset : offset + length]
        return part.view(dtype).reshape(tuple(tensor.dims))

    def listed(self, name: str) -> np.ndarray:
        """Read a ``sparse_initializer`` as a dense array."""
        sparse = self.listed_tensors[name]
        to_array = self._onnx.numpy_helper.to_array
        try:
            values, places = to_array(sparse.values), to_array(sparse.indices)
        except (ValueError, TypeError, KeyError) as error:
            raise self.damaged(f"{name}: {error}") from None
        dims = tuple(sparse.dims)
        inside = places.size == values.size and values.size <= math.prod(dims)
        if not inside or (places.size and not 0 <= places.min() <= places.max() < math.prod(dims)):
            raise self.damaged(f"{name} lists positions outside its shape")
        dense = np.zeros(math.prod(dims), values.dtype)
        dense[places.reshape(-1)] = values
        return dense.reshape(dims)

    def dtype(self, tensor: Any) -> np.dtype:
        """Return an initializer's type as numpy names it."""
        try:
            return self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except (KeyError, ValueError, TypeError):
            raise self.damaged(f"{tensor.name} has the unknown type {tensor.data_type}") from None

    def bytes(self, tensor: Any, dtype: np.dtype) -> int:
        """Return the size of an initializer's shape."""
        count = 1
        for size in tensor.dims:
            if size < 0:
                raise self.damaged(f"{tensor.name} has the invalid shape {list(tensor.dims)}")
            count *= size
        return count * dtype.itemsize

    def check_place(self, tensor: Any) -> None:
        """Check what a weight declares against what the file holds."""
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            self._place(tensor)

    def damaged(self, reason: str) -> InputError:
        """Make the error for an invalid file."""
        return InputError(
            f"{self._path} is a damaged ONNX file: {reason}.", "Download or build it again."
        )

    def _parsed(self) -> Any:
        from google.protobuf.message import DecodeError

        try:
            size = self._path.stat().st_size
            if size > _MOST_BYTES:
                raise InputError(
                    f"{self._path} has {size} bytes; an ONNX file can have at most 2 GiB."
                )
            model = self._onnx.ModelProto.FromString(self._path.read_bytes())
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}.") from None
        except DecodeError as error:
            raise InputError(
                f"{self._path} is not a valid ONNX file: {error}.",
                "Download or build it again; the usual cause is an incomplete download.",
            ) from None
        if not model.ir_version or not model.graph.node:
            raise InputError(f"{self._path} is not an ONNX model: it has no graph.")
        return model

    def _place(self, tensor: Any) -> tuple[np.ndarray, int, int]:
        """Find the mapped file of a tensor, and the tensor's offset in it."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = Path(entries.get("location", "").replace("\0", "?"))
        path = (self._folder / location).resolve()
        if location.is_absolute() or not path.is_relative_to(self._folder):
            raise self.damaged(f"{tensor.name} points outside the model's folder, to {location}")
        if path not in self._maps:
            if not path.is_file():
                raise InputError(
                    f"{self._path} needs its weights file: {path.name} is not in the same folder.",
                    "Copy both files to the same folder.",
                )
            empty = not path.stat().st_size
            self._maps[path] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            self.files.append(path)
        data = self._maps[path]
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", len(data) - offset))
        except ValueError:
            raise self.damaged(f"{tensor.name} has an offset that is not a number") from None
        if offset < 0 or length < 0 or offset + length > len(data):
            raise self.damaged(f"{tensor.name} ends beyond {path.name}: the file is truncated")
        return data, offset, length


def _texts(model: Any) -> Iterator[Any]:
    """List names and properties used as text; protobuf gives bytes for invalid ones."""
    graph = model.graph
    listed = [sparse.values for sparse in graph.sparse_initializer]
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in (*graph.initializer, *listed):
        yield tensor.name
        for entry in (*tensor.external_data, *tensor.metadata_props):
            yield from (entry.key, entry.value)
    for value in (*graph.input, *graph.output):
        yield value.name
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    yield model.producer_name
