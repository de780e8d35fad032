"""The initializers of an ONNX model, wherever their bytes stand."""

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
        model: the graph, an ``onnx.ModelProto`` without the weights beside it.
        files: every file that was read; the first one is ``path``.
        tensors: initializers by name.
        listed_tensors: those of which non-zeros and their places are listed, by name.

    Raises:
        InputError: the file can't be read, or what it says of its weights can't be right.
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
        """An initializer as it is stored."""
        tensor = self.tensors[name]
        dtype = self.dtype(tensor)
        if tensor.data_location != self._onnx.TensorProto.EXTERNAL:
            try:
                return self._onnx.numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise self.damaged(f"{name}: {error}") from None
        data, offset, length = self._place(tensor)
        if length != self.bytes(tensor, dtype):
            raise self.damaged(f"{name} has {length} bytes for the shape {list(tensor.dims)}")
        part = data[offset : offset + length]
        return part.view(dtype).reshape(tuple(tensor.dims))

    def listed(self, name: str) -> np.ndarray:
        """A ``sparse_initializer``, dense again."""
        sparse = self.listed_tensors[name]
        to_array = self._onnx.numpy_helper.to_array
        try:
            values, places = to_array(sparse.values), to_array(sparse.indices)
        except (ValueError, TypeError, KeyError) as error:
            raise self.damaged(f"{name}: {error}") from None
        dims = tuple(sparse.dims)
        inside = places.size == values.size and values.size <= math.prod(dims)
        if not inside or (places.size and not 0 <= places.min() <= places.max() < math.prod(dims)):
            raise self.damaged(f"{name} lists places that it doesn't have")
        dense = np.zeros(math.prod(dims), values.dtype)
        dense[places.reshape(-1)] = values
        return dense.reshape(dims)

    def dtype(self, tensor: Any) -> np.dtype:
        """Of an initializer, as numpy has it."""
        try:
            return self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except (KeyError, ValueError, TypeError):
            raise self.damaged(f"{tensor.name} has an unknown type {tensor.data_type}") from None

    def bytes(self, tensor: Any, dtype: np.dtype) -> int:
        """What an initializer's shape takes."""
        count = 1
        for size in tensor.dims:
            if size < 0:
                raise self.damaged(f"{tensor.name} has the shape {list(tensor.dims)}")
            count *= size
        return count * dtype.itemsize

    def check_place(self, tensor: Any) -> None:
        """Hold what a weight says of itself against what there is."""
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            self._place(tensor)

    def damaged(self, reason: str) -> InputError:
        """What is raised for a file that can't be right."""
        return InputError(
            f"{self._path} is a damaged ONNX file: {reason}.", "Fetch or build it again."
        )

    def _parsed(self) -> Any:
        from google.protobuf.message import DecodeError

        try:
            size = self._path.stat().st_size
            if size > _MOST_BYTES:
                raise InputError(f"{self._path} has {size} bytes; an ONNX file has at most 2 GiB.")
            model = self._onnx.ModelProto.FromString(self._path.read_bytes())
        except OSError as error:
            raise InputError(f"{self._path} can't be read: {error.strerror}.") from None
        except DecodeError as error:
            raise InputError(
                f"{self._path} is not a usable ONNX file: {error}.",
                "Fetch or build it again; a partial download is the usual cause.",
            ) from None
        if not model.ir_version or not model.graph.node:
            raise InputError(f"{self._path} is not an ONNX file: it holds no graph.")
        return model

    def _place(self, tensor: Any) -> tuple[np.ndarray, int, int]:
        """The mapped file that a tensor stands in, and where in it."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = Path(entries.get("location", "").replace("\0", "?"))
        path = (self._folder / location).resolve()
        if location.is_absolute() or not path.is_relative_to(self._folder):
            raise self.damaged(f"{tensor.name} points outside of its folder, to {location}")
        if path not in self._maps:
            if not path.is_file():
                raise InputError(
                    f"{self._path} lacks its weights: {path.name} is not beside it.",
                    "Copy both files; they belong together.",
                )
            empty = not path.stat().st_size
            self._maps[path] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            self.files.append(path)
        data = self._maps[path]
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", len(data) - offset))
        except ValueError:
            raise self.damaged(f"{tensor.name} stands at no number") from None
        if offset < 0 or length < 0 or offset + length > len(data):
            raise self.damaged(f"{tensor.name} ends behind {path.name}: the file is truncated")
        return data, offset, length


def _texts(model: Any) -> Iterator[Any]:
    """Names and properties that are used as text; protobuf gives bytes where they are none."""
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
