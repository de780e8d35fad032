"""Read ONNX files, including untrusted ones: their weights and their zeros.

Only the graph is read into memory; external data is mapped, after offsets are checked against the
files' sizes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.formats.onnx.expansion import KEPT, MASK
from edgeprune.formats.onnx.initializers import Initializers
from edgeprune.formats.onnx.packing import Packing, read_packing, unpack

PACKING = "edgeprune.packing"
_FLOATS = {1: "FP32", 10: "FP16", 16: "BF16", 11: "FP64"}
# Operators whose weights are codes and scales: places of weight, scales and zero points among the
# inputs, and bits where the node doesn't say.
_QUANTIZED = {"MatMulNBits": (1, 2, 3, 4), "GatherBlockQuantized": (0, 2, 3, 4)}


@dataclass(frozen=True)
class OnnxTensor:
    """One weight of a model, as the graph uses it.

    Attributes:
        name: name of the initializer that holds it.
        type: ``FP32``, ``FP16``, ``INT8``, ``INT4``, ...
        shape: (out, in) for a matrix, in whichever order it is stored.
        size: stored size in bytes, with scales.
        properties: metadata of the initializer.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    properties: dict[str, str]
    _read: Callable[[], np.ndarray] = field(repr=False, compare=False)

    def values(self) -> np.ndarray:
        """Read the weight's values, dequantised to float32.

        Raises:
            InputError: its bytes do not match what the file declares.
        """
        return self._read()


class OnnxFile:
    """A model and its external data.

    Args:
        path: the ``.onnx`` file.

    Attributes:
        model: the graph, an ``onnx.ModelProto`` without the weights beside it.
        properties: metadata of the model.
        tensors: its weights in file order.
        files: all files of the model; the first is ``path``.

    Raises:
        InputError: the file cannot be read, or what it declares of its weights is invalid.
    """

    def __init__(self, path: Path):
        self._stored = stored = Initializers(path)
        self.model, self.files = stored.model, stored.files
        self.properties = {p.key: p.value for p in self.model.metadata_props}
        self._users: dict[str, list[tuple[Any, int]]] = {}
        for node in self.model.graph.node:
            for place, name in enumerate(node.input):
                self._users.setdefault(name, []).append((node, place))
        self.tensors = list(self._walk())

    @property
    def lists_weights(self) -> bool:
        """Tell whether weights are stored as ONNX's ``sparse_initializer``."""
        return bool(self._stored.listed_tensors)

    def array(self, name: str) -> np.ndarray:
        """Read an initializer as it is stored."""
        return self._stored.array(name)

    def listed(self, name: str) -> np.ndarray:
        """Read a ``sparse_initializer`` as a dense array."""
        return self._stored.listed(name)

    def _walk(self) -> Iterator[OnnxTensor]:
        scales = set()
        for op, (_, *sides, _bits) in _QUANTIZED.items():
            for node in self.model.graph.node:
                if node.op_type == op:
                    scales |= {node.input[i] for i in sides if i < len(node.input)}
        for name, tensor in self._stored.tensors.items():
            properties = {p.key: p.value for p in tensor.metadata_props}
            if name in scales or name.removesuffix(MASK) + KEPT in self._stored.tensors:
                continue
            if text := properties.get(PACKING):
                yield self._packed(name.removesuffix(KEPT), text, properties)
                continue
            found = self._described(name, tensor, tuple(tensor.dims), properties)
            if found:
                yield found
        for name, sparse in self._stored.listed_tensors.items():
            yield self._listed(name, sparse)

    def _listed(self, name: str, sparse: Any) -> OnnxTensor:
        """Describe a weight stored as non-zeros and their positions (``sparse_initializer``)."""
        properties = {p.key: p.value for p in sparse.values.metadata_props}
        parts = (sparse.values, sparse.indices)
        size = sum(self._stored.bytes(part, self._stored.dtype(part)) for part in parts)
        kind = _FLOATS.get(sparse.values.data_type, "?")
        dims = tuple(sparse.dims)
        if len(dims) != 2 or min(dims) < 1:
            raise self._stored.damaged(f"{name} has the invalid shape {list(dims)}")
        shape = dims[::-1] if self._transposed(name) else dims
        read = self._float_reader(name, lambda: self.listed(name))
        return OnnxTensor(name, kind, shape, size, properties, read)

    def _described(
        self, name: str, tensor: Any, dims: tuple[int, ...], properties: dict[str, str]
    ) -> OnnxTensor | None:
        """Describe a weight stored as it is; None for shapes, masks and the like."""
        quantized = self._quantized_by(name)
        if quantized:
            return self._coded(name, quantized, properties, lambda: self.array(name))
        if tensor.data_type not in _FLOATS:
            return None
        size = self._stored.bytes(tensor, self._stored.dtype(tensor))
        self._stored.check_place(tensor)
        read = self._float_reader(name, lambda: self.array(name))
        shape = dims[::-1] if self._transposed(name) else dims
        return OnnxTensor(name, _FLOATS[tensor.data_type], shape, size, properties, read)

    def _packed(self, name: str, text: str, properties: dict[str, str]) -> OnnxTensor:
        try:
            packing = read_packing(text)
        except ValueError as error:
            raise self._stored.damaged(f"{name}: {error}") from None
        ends = (MASK, KEPT) if packing.masked else (KEPT,)
        if not {name + end for end in ends} <= set(self._stored.tensors):
            raise self._stored.damaged(
                f"{name} is packed, but its mask or its elements are missing"
            )
        parts = [self._stored.tensors[name + end] for end in ends]
        sizes = [self._stored.bytes(part, self._stored.dtype(part)) for part in parts]
        if packing.masked and sizes[0] != packing.mask_bytes():
            raise self._stored.damaged(f"{name} has a mask of the wrong size")
        size = sum(sizes)
        for part in parts:
            self._stored.check_place(part)

        def dense() -> np.ndarray:
            return self.unpacked(name, packing)

        quantized = self._quantized_by(name)
        if quantized:
            return self._coded(name, quantized, properties, dense, size)
        kind = {"float32": "FP32", "float16": "FP16"}.get(packing.dtype, packing.dtype)
        shape = packing.shape[::-1] if self._transposed(name) else packing.shape
        return OnnxTensor(name, kind, shape, size, properties, self._float_reader(name, dense))

    def unpacked(self, name: str, packing: Packing) -> np.ndarray:
        """Unpack a packed initializer."""
        try:
            mask = self.array(name + MASK) if packing.masked else None
            return unpack(packing, mask, self.array(name + KEPT))
        except ValueError as error:
            raise self._stored.damaged(f"{name}: {error}") from None

    def _float_reader(self, name: str, read: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        turn = self._transposed(name)

        def values() -> np.ndarray:
            array = read().astype(np.float32)
            return array.T if turn else array

        return values

    def _coded(
        self, name: str, node: Any, properties: dict[str, str], read: Callable[[], np.ndarray],
        size: int | None = None,
    ) -> OnnxTensor:  # fmt: skip
        _, scales_at, zeros_at, default_bits = _QUANTIZED[node.op_type]
        given = {a.name: a.i for a in node.attribute}
        bits, block = given.get("bits", default_bits), given.get("block_size", 0)
        scales = self._stored.tensors.get(node.input[scales_at])
        if bits not in {4, 8} or block < 1 or scales is None:
            raise self._stored.damaged(f"{name} has invalid quantisation parameters")
        zeros = node.input[zeros_at] if len(node.input) > zeros_at else ""
        codes_bytes = size or self._count(name)
        columns = given.get("K") or self._count(name) * 8 // bits // max(self._rows(name), 1)
        rows, blocks = self._rows(name), -(-columns // block)
        count = math.prod(scales.dims)
        if not rows or count != rows * blocks:
            raise self._stored.damaged(
                f"{name} has {count} scales for {rows} rows of {blocks} blocks each"
            )

        def values() -> np.ndarray:
            stored = read()
            if stored.dtype != np.uint8 or stored.nbytes * 8 != rows * blocks * block * bits:
                raise self._stored.damaged(
                    f"{name} has {stored.nbytes} bytes, the wrong size for {rows} rows"
                )
            stored = stored.reshape(rows, blocks, -1)
            codes = stored if bits == 8 else np.stack([stored & 15, stored >> 4], -1)
            codes = codes.reshape(rows, blocks, block).astype(np.float32)
            scale = self.array(scales.name).astype(np.float32).reshape(rows, blocks, 1)
            dense = (codes - self._zero_points(zeros, rows, blocks, bits)) * scale
            return dense.reshape(rows, -1)[:, :columns]

        total = codes_bytes + self._stored.bytes(scales, self._stored.dtype(scales))
        return OnnxTensor(name, f"INT{bits}", (rows, columns), total, properties, values)

    def _zero_points(self, name: str, rows: int, blocks: int, bits: int) -> Any:
        if name not in self._stored.tensors:
            return float(2 ** (bits - 1))
        stored = self.array(name)
        if stored.dtype != np.uint8 or not stored.size or stored.size % rows:
            raise self._stored.damaged(f"{name} does not hold zero points of {rows} rows")
        stored = stored.reshape(rows, -1)
        points = stored if bits == 8 else np.stack([stored & 15, stored >> 4], -1)
        points = points.reshape(rows, -1)[:, :blocks, None]
        if points.shape[1] != blocks:
            raise self._stored.damaged(f"{name} has too few zero points")
        return points.astype(np.float32)

    def _rows(self, name: str) -> int:
        tensor = self._stored.tensors.get(name)
        if tensor is not None:
            return int(tensor.dims[0]) if tensor.dims else 0
        kept = self._stored.tensors[name + KEPT]
        text = {p.key: p.value for p in kept.metadata_props}[PACKING]
        return read_packing(text).shape[0]

    def _count(self, name: str) -> int:
        tensor = self._stored.tensors.get(name)
        if tensor is not None:
            self._stored.check_place(tensor)
            return self._stored.bytes(tensor, self._stored.dtype(tensor))
        kept = self._stored.tensors[name + KEPT]
        text = {p.key: p.value for p in kept.metadata_props}[PACKING]
        return math.prod(read_packing(text).shape)

    def _quantized_by(self, name: str) -> Any:
        for node, place in self._users.get(name, []):
            if node.op_type in _QUANTIZED and _QUANTIZED[node.op_type][0] == place:
                return node
        return None

    def _transposed(self, name: str) -> bool:
        """Tell whether the graph multiplies by it as (in, out), possibly after a cast."""
        users = self._users.get(name, [])
        for cast in [node for node, _ in users if node.op_type == "Cast"]:
            users = users + [user for out in cast.output for user in self._users.get(out, [])]
        return any(node.op_type == "MatMul" and place == 1 for node, place in users)
