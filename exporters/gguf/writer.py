"""The gguf package's writer, with arrays packed at once: one by one is as slow as quantising."""

import struct
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter

from edgeprune.formats.gguf.file import GgufFile

_NUMBERS = {
    GGUFValueType.INT32: "<i4", GGUFValueType.UINT32: "<u4", GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.UINT64: "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class PackedArray:
    """An array as stored in a GGUF file.

    Attributes:
        data: bytes of its items in order.
        length: number of items.
    """

    data: bytes
    length: int


class Writer(GGUFWriter):
    """A `gguf.GGUFWriter` that also takes a `PackedArray` for an array."""

    def _pack_val(
        self, val: Any, vtype: GGUFValueType, add_vtype: bool, sub_type: GGUFValueType | None = None
    ) -> bytes:
        if vtype != GGUFValueType.ARRAY or isinstance(val, bytes) or not add_vtype:
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        item = GGUFValueType.get_type(val[0]) if sub_type is None else sub_type
        packed = val if isinstance(val, PackedArray) else _packed(list(val), item)
        if packed is None:
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        return struct.pack("<IIQ", vtype, item, packed.length) + packed.data


def copy_fields(
    writer: Writer, source: GgufFile, prefix: str, except_for: tuple[str, ...] = ()
) -> None:
    """Copy all metadata under a prefix from another GGUF file, except for empty arrays."""
    for key in source:
        if key.startswith(prefix) and key not in except_for and source.length(key) != 0:
            kind, item = source.types(key)
            value: Any = source.get(key) if item is None else PackedArray(*source.items(key))
            item_type = None if item is None else GGUFValueType(item)
            writer.add_key_value(key, value, GGUFValueType(kind), item_type)


def _packed(items: list[Any], kind: GGUFValueType) -> PackedArray | None:
    """Pack an array; None for rare kinds."""
    if kind in _NUMBERS and len({type(item) for item in items}) == 1:
        return PackedArray(np.array(items, _NUMBERS[kind]).tobytes(), len(items))
    if kind == GGUFValueType.STRING and all(type(item) is str for item in items):
        texts = [item.encode() for item in items]
        sizes = map(struct.Struct("<Q").pack, map(len, texts))
        data = b"".join(chain.from_iterable(zip(sizes, texts, strict=True)))
        return PackedArray(data, len(items))
    return None
