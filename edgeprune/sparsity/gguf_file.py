"""Opening GGUF files that may come from anyone.

The `gguf` package reads what a header claims without asking whether the file can hold it. This
module walks the header first, in bounded time and memory, and only then hands the file over.
Layout: ggml-org/ggml, docs/gguf.md.
"""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFReader

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_NAME_BYTES = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 16


def open_gguf(path: Path, mode: str = "r") -> "GGUFReader":
    """Open a GGUF file after its header has been checked against the file's size.

    Args:
        path: the file.
        mode: ``r``, or ``r+`` to change values in place.

    Raises:
        InputError: missing, not GGUF, truncated, or claiming what it cannot hold.
    """
    from gguf import GGUFReader

    if not path.is_file():
        raise InputError(f"No such GGUF file: {path}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty, expected a GGUF file.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _HeaderWalk(data).check()
        except _Broken as broken:
            raise InputError(
                f"{path} is not a usable GGUF file: {broken}.",
                "Fetch or build it again; a partial download is the usual cause.",
            ) from None
    try:
        return GGUFReader(path, mode)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise InputError(f"{path} is not a usable GGUF file: {error}.") from None


def field(reader: "GGUFReader", key: str, default: Any = None) -> Any:
    """The value of a metadata key, or a default.

    Raises:
        InputError: the value is not what its type says, such as text that is not UTF-8.
    """
    found = reader.get_field(key)
    if found is None:
        return default
    try:
        return found.contents()
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"The GGUF metadata key {key!r} is damaged: {error}.") from None


class _Broken(Exception):
    """The header cannot be right."""


class _HeaderWalk:
    """Reads a header as ggml does, refusing every length that the file cannot hold."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._position = 0

    def check(self) -> None:
        if self._take(4, "the magic") != _MAGIC:
            raise _Broken("it does not begin with 'GGUF'")
        (version,) = struct.unpack("<I", self._take(4, "the version"))
        if version not in _VERSIONS:
            raise _Broken(f"version {version}, expected one of {_VERSIONS}")
        tensors, keys = self._u64(), self._u64()
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
            raise _Broken(f"it claims {tensors} tensors and {keys} metadata keys")
        alignment = 32
        seen: set[bytes] = set()
        for _ in range(keys):
            key = self._string("a metadata key", _MAX_NAME_BYTES)
            if key in seen:
                raise _Broken(f"the key {key!r} stands in it twice")
            seen.add(key)
            kind = self._u32()
            if key == b"general.alignment" and kind == 4:
                alignment = self._u32()
            else:
                self._skip_value(kind, depth=0)
        if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _Broken(f"alignment {alignment} is not a power of two up to {_MAX_ALIGNMENT}")
        extents = self._tensor_extents(tensors)
        start = -(-self._position // alignment) * alignment
        for name, offset, size in extents:
            if offset % alignment or start + offset + size > len(self._data):
                raise _Broken(
                    f"tensor {name!r} ends at byte {start + offset + size} of {len(self._data)}"
                )

    def _tensor_extents(self, count: int) -> list[tuple[str, int, int]]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        extents: list[tuple[str, int, int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = self._string("a tensor name", _MAX_NAME_BYTES).decode("utf-8", "replace")
            if name in names:
                raise _Broken(f"tensor {name!r} stands in it twice")
            names.add(name)
            dimensions = self._u32()
            if dimensions > _MAX_DIMENSIONS:
                raise _Broken(f"tensor {name!r} has {dimensions} dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self._u64()
            kind, offset = self._u32(), self._u64()
            try:
                block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            except (ValueError, KeyError):
                raise _Broken(f"tensor {name!r} has the unknown type {kind}") from None
            extents.append((name, offset, -(-elements // block) * block_bytes))
        return extents

    def _skip_value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._string("a metadata value", len(self._data))
        elif kind == _ARRAY:
            if depth > 2:
                raise _Broken("arrays are nested too deeply")
            item, length = self._u32(), self._u64()
            if item in _SCALAR_BYTES:
                self._skip(length * _SCALAR_BYTES[item], "an array")
            else:
                if length > len(self._data) // 8:  # every item takes eight bytes at least
                    raise _Broken(f"it claims an array of {length} items")
                for _ in range(length):
                    self._skip_value(item, depth + 1)
        elif kind in _SCALAR_BYTES:
            self._skip(_SCALAR_BYTES[kind], "a metadata value")
        else:
            raise _Broken(f"unknown metadata type {kind}")

    def _string(self, what: str, limit: int) -> bytes:
        length = self._u64()
        if length > limit:
            raise _Broken(f"{what} claims {length} bytes")
        return self._take(length, what)

    def _u32(self) -> int:
        return int.from_bytes(self._take(4, "a number"), "little")

    def _u64(self) -> int:
        return int.from_bytes(self._take(8, "a number"), "little")

    def _skip(self, size: int, what: str) -> None:
        if size > len(self._data) - self._position:
            raise _Broken(f"it ends inside {what}")
        self._position += size

    def _take(self, size: int, what: str) -> bytes:
        start = self._position
        self._skip(size, what)
        return self._data[start : self._position]
