"""Read GGUF files, including untrusted ones.

The `gguf` package's reader makes an object of every token of a vocabulary, which takes seconds, and
believes what a header claims. Here the header is walked once, in bounded time and memory, every
length is held against the file's size, and values are read when they are asked for.
Layout: ggml-org/ggml, docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from edgeprune.support.errors import InputError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_U32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_SCALAR_BYTES = {kind: np.dtype(text).itemsize for kind, text in _SCALARS.items()}
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_NAME_BYTES = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_ITEMS = 1 << 22  # texts in arrays; a vocabulary of 262,144 with its merges has a fifth
_MAX_ALIGNMENT = 1 << 16


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file.

    Attributes:
        name: the tensor's name in the file.
        type: storage type of its values.
        shape: slowest dimension first, as in numpy: (out, in) for a matrix.
        offset: offset of its first byte in the file.
        size: size in bytes.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int
    _read: "ReadTensor" = field(repr=False, compare=False)

    @property
    def data(self) -> np.ndarray:
        """Read the tensor's bytes, (..., bytes of a row) uint8."""
        flat = self._read(self)
        return flat.reshape(*self.shape[:-1], -1)

    def values(self) -> np.ndarray:
        """Read the tensor's values, dequantised to float32.

        Raises:
            NotImplementedError: `gguf` cannot dequantise the type.
        """
        return quants.dequantize(self.data, self.type).reshape(self.shape)


ReadTensor = Callable[[GgufTensor], np.ndarray]


class GgufFile:
    """The header of a GGUF file, and the offsets of its values.

    Args:
        data: the file, or its header alone.
        size: size of the whole file in bytes; by default, that of the data.
        read: reads a tensor's bytes, (size,) uint8; by default, they are in the data.

    Attributes:
        tensors: the tensors in file order.
        data_start: offset of the tensors' data.

    Raises:
        BrokenHeader: the header is invalid.
    """

    def __init__(self, data: memoryview, size: int | None = None, read: ReadTensor | None = None):
        self._data = data
        self._read = read or self._read_data
        self._size = len(data) if size is None else size
        self._places: dict[
            str, tuple[int, int, int]
        ] = {}  # key -> type, begin and end of its value
        self._position = 0
        self._items = 0
        self.tensors: list[GgufTensor] = []
        self.data_start = 0
        self._walk()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def get(self, key: str, default: Any = None) -> Any:
        """Read the value of a metadata key, or a default.

        Raises:
            InputError: a string is not UTF-8.
        """
        if key not in self._places:
            return default
        kind, self._position, _ = self._places[key]
        try:
            return self._value(kind)
        except UnicodeDecodeError as error:
            raise InputError(f"The GGUF metadata key {key!r} is damaged: {error}.") from None

    def length(self, key: str) -> int | None:
        """Return the number of items of an array; None if the value is not an array."""
        kind, self._position, _ = self._places[key]
        if kind != _ARRAY:
            return None
        self._number("<I")
        return self._number("<Q")

    def types(self, key: str) -> tuple[int, int | None]:
        """Return GGUF's type numbers of a key's value, and of its items if it is an array."""
        kind, self._position, _ = self._places[key]
        return kind, self._number("<I") if kind == _ARRAY else None

    def place(self, key: str) -> tuple[int, int]:
        """Return offset and size of the content of a string or scalar array, to edit in place."""
        kind, self._position, _ = self._places[key]
        if kind == _STRING:
            size = self._number("<Q")
        else:
            item, length = self._number("<I"), self._number("<Q")
            size = length * _SCALAR_BYTES[item]
        return self._position, size

    def items(self, key: str) -> tuple[bytes, int]:
        """Return an array's content as stored in the file, and its number of items."""
        length = self.length(key)
        _, _, end = self._places[key]
        return bytes(self._data[self._position : end]), length or 0

    def drop_pages(self) -> None:
        """Free the memory of pages read from a mapped file; they can be read again."""
        mapped = self._data.obj
        if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def _walk(self) -> None:
        if bytes(self._take(4, "the magic")) != _MAGIC:
            raise BrokenHeader("it does not start with 'GGUF'")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise BrokenHeader(f"version {version}, expected one of {_VERSIONS}")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
            raise BrokenHeader(f"it declares {tensors} tensors and {keys} metadata keys")
        for _ in range(keys):
            key = self._name("a metadata key")
            if key in self._places:
                raise BrokenHeader(f"the key {key!r} occurs twice")
            kind = self._number("<I")
            begin = self._position
            self._skip_value(kind, depth=0)
            self._places[key] = kind, begin, self._position
        infos = [self._tensor_info() for _ in range(tensors)]
        if len({name for name, *_ in infos}) < tensors:
            raise BrokenHeader("a tensor occurs twice")
        end_of_infos = self._position
        alignment = self._alignment()
        self.data_start = -(-end_of_infos // alignment) * alignment
        behind = 0
        for name, _, _, offset, size in sorted(infos, key=lambda info: info[3]):
            if offset < behind:
                raise BrokenHeader(f"tensor {name!r} overlaps another tensor")
            behind = offset + size
        for name, kind, shape, offset, size in infos:
            end = self.data_start + offset + size
            if offset % alignment or end > self._size:
                raise BrokenHeader(
                    f"tensor {name!r} ends at byte {end}, but the file has {self._size} bytes"
                )
            self.tensors.append(
                GgufTensor(name, kind, shape, self.data_start + offset, size, self._read)
            )

    def _read_data(self, tensor: GgufTensor) -> np.ndarray:
        return np.frombuffer(self._data, np.uint8, tensor.size, tensor.offset)

    def _alignment(self) -> int:
        kind, *_ = self._places.get("general.alignment", (_U32,))
        alignment = self.get("general.alignment", 32) if kind == _U32 else 0
        if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise BrokenHeader(
                f"alignment {alignment} is not a power of two up to {_MAX_ALIGNMENT}"
            )
        return alignment

    def _tensor_info(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int, int]:
        name = self._name("a tensor name")
        dimensions = self._number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise BrokenHeader(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        number, offset = self._number("<I"), self._number("<Q")
        try:
            kind = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise BrokenHeader(f"tensor {name!r} has the unknown type {number}") from None
        if 0 in shape:
            raise BrokenHeader(f"tensor {name!r} is empty")
        if shape and shape[-1] % block:
            raise BrokenHeader(
                f"tensor {name!r} has rows of {shape[-1]} weights, which are not whole blocks"
            )
        return name, kind, shape, offset, math.prod(shape) // block * block_bytes

    def _skip_value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._take(self._number("<Q"), "a metadata value")
        elif kind == _ARRAY:
            if depth > 2:
                raise BrokenHeader("arrays are nested too deeply")
            item, length = self._number("<I"), self._number("<Q")
            if item in _SCALAR_BYTES:
                self._take(length * _SCALAR_BYTES[item], "an array")
                return
            self._items += length
            if length > len(self._data) // 8 or self._items > _MAX_ITEMS:  # eight bytes each
                raise BrokenHeader(f"it declares an array of {length} items")
            if item == _STRING:
                self._skip_texts(length)
                return
            for _ in range(length):
                self._skip_value(item, depth + 1)
        elif kind in _SCALAR_BYTES:
            self._take(_SCALAR_BYTES[kind], "a metadata value")
        else:
            raise BrokenHeader(f"unknown metadata type {kind}")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return bytes(self._take(self._number("<Q"), "a metadata value")).decode("utf-8")
        if kind == _ARRAY:
            item, length = self._number("<I"), self._number("<Q")
            if item in _SCALARS:
                found = np.frombuffer(self._data, _SCALARS[item], length, self._position).tolist()
                return [bool(x) for x in found] if item == _BOOL else found
            if item == _STRING:
                return [bytes(text).decode("utf-8") for text in self._texts(length)]
            return [self._value(item) for _ in range(length)]
        number = np.frombuffer(self._data, _SCALARS[kind], 1, self._position)[0].item()
        self._position += _SCALAR_BYTES[kind]
        return bool(number) if kind == _BOOL else number

    def _skip_texts(self, count: int) -> None:
        """Skip strings; a vocabulary has hundreds of thousands, so nothing else is done here."""
        data, position = self._data, self._position
        size_at = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                position += 8 + size_at(data, position)[0]
        except (struct.error, OverflowError):
            position = len(data) + 1
        if position > len(data):
            raise BrokenHeader("it ends inside an array of strings")
        self._position = position

    def _texts(self, count: int) -> Iterator[memoryview]:
        """Read consecutive strings, whose sizes `_skip_texts` has checked."""
        data, position = self._data, self._position
        size_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = position + 8
            position = start + size_at(data, position)[0]
            yield data[start:position]
        self._position = position

    def _name(self, what: str) -> str:
        length = self._number("<Q")
        if length > _MAX_NAME_BYTES:
            raise BrokenHeader(f"{what} declares {length} bytes")
        try:
            return bytes(self._take(length, what)).decode("utf-8")
        except UnicodeDecodeError:
            raise BrokenHeader(f"{what} is not UTF-8") from None

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form), "a number"))[0]

    def _take(self, size: int, what: str) -> memoryview:
        start, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise BrokenHeader(f"it ends inside {what}")
        return self._data[start : self._position]


class BrokenHeader(Exception):
    """The header is invalid; the message says why."""


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file by mapping it into memory.

    Raises:
        InputError: the file is missing, not GGUF, truncated or inconsistent.
    """
    if not path.is_file():
        raise InputError(f"No such GGUF file: {path}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected a GGUF file.")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return GgufFile(memoryview(data))
    except BrokenHeader as broken:
        raise InputError(
            f"{path} is not a valid GGUF file: {broken}.",
            "Download or build it again; the usual cause is an incomplete download.",
        ) from None
