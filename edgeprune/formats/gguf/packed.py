"""``.packed.gguf``: a GGUF file that holds no zeros of its sparse tensors, and no unused codes.

The container is GGUF too. It holds the original's header as it was, byte for byte, and one run of
bytes for each tensor, packed where that is smaller, in a form of its own (`formats.forms`). So the
original comes back bit for bit, and can be read at any offset without being written anywhere.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from edgeprune.formats import forms, packing
from edgeprune.formats.forms import Form
from edgeprune.formats.gguf.file import BrokenHeader, GgufFile, GgufTensor, open_gguf
from edgeprune.support.errors import CheckFailed, InputError, UsageError
from edgeprune.support.files import atomic_path

_ARCHITECTURE = "edgeprune-packed"  # stock llama.cpp then says what it can't read, and stops
_SCHEMA = 2  # 1: without forms, all tensors are packed in the whole width of their codes
_HEADER = "edgeprune.header"
_CHUNK = 1 << 24
_MOST_PADDING = 1 << 16  # the largest alignment
Advance = Callable[[int], None]


class PackedFile:
    """A packed file, read as the file that it was made from.

    Attributes:
        original: header and tensors of the original; their bytes are unpacked on demand.
        size: size of the original in bytes.
        sha256: hash of the original.

    Raises:
        InputError: the file is not a packed file, or it is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._container = open_gguf(path)
        if self._container.get("general.architecture") != _ARCHITECTURE:
            raise InputError(f"{path} is not a packed GGUF file.", "'edgeprune pack' creates one.")
        schema = self._container.get("edgeprune.packed.schema")
        if schema not in (1, _SCHEMA):
            said = schema if isinstance(schema, int) else "?"
            raise InputError(
                f"{path} is packed with schema {said}; this version of edgeprune reads schemas 1 "
                f"and {_SCHEMA}.",
                "Upgrade edgeprune: pip install --upgrade edgeprune",
            )
        self.size = self._container.get("edgeprune.packed.size")
        self.sha256 = self._container.get("edgeprune.packed.sha256")
        self._runs = {tensor.name: tensor for tensor in self._container.tensors}
        packed = self._container.get("edgeprune.packed.tensors", [])
        said = self._container.get("edgeprune.packed.forms", [])
        known = all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in (packed, said)
        )
        known = known and _HEADER in self._runs and (schema == 1 or len(said) == len(packed))
        if not (known and isinstance(self.size, int) and isinstance(self.sha256, str)):
            raise self._damaged("the keys needed for unpacking are missing")
        self._packed = frozenset(packed)
        header = self._runs[_HEADER].data.reshape(-1)
        try:
            self.original = GgufFile(header.data, self.size, self._tensor_bytes)
        except BrokenHeader as broken:
            raise self._damaged(str(broken)) from None
        self._segments = sorted(
            (t for t in self.original.tensors if t.size), key=lambda tensor: tensor.offset
        )
        self._forms = self._read_forms(dict(zip(packed, said, strict=schema > 1)))
        self._check()
        self._latest = lru_cache(maxsize=2)(self._tensor_bytes)

    def read(self, offset: int, count: int, without: frozenset[str] = frozenset()) -> bytes:
        """Read bytes of the original from ``offset`` on, fewer at its end.

        Packed tensors named in ``without`` are not unpacked but read as zeros.
        """
        end = min(offset + count, self.size)
        result = bytearray(max(end - offset, 0))  # what no tensor covers is padding: zeros
        for start, data in self._overlapping(offset, end, without):
            result[start - offset : start - offset + len(data)] = data
        return bytes(result)

    def stored(self, name: str) -> np.ndarray | None:
        """Read a tensor's bytes as `packing.pack` made them; None if it is not packed here."""
        return self._runs[name].data.reshape(-1) if name in self._packed else None

    def form(self, name: str) -> Form:
        """Return the form in which `stored` gives a tensor."""
        return self._forms[name]

    def drop_pages(self) -> None:
        """Free the memory of pages read so far; they can be read again."""
        self._container.drop_pages()

    def chunks(self) -> Iterator[bytes]:
        """Yield the original from its first byte to its last."""
        position = 0
        for tensor in self._segments:
            yield self.read(position, tensor.offset - position)
            yield self._tensor_bytes(tensor).tobytes()
            position = tensor.offset + tensor.size
        yield self.read(position, self.size - position)

    def _overlapping(
        self, offset: int, end: int, without: frozenset[str]
    ) -> Iterator[tuple[int, memoryview]]:
        header = self._runs[_HEADER].data.reshape(-1).data
        if offset < len(header):
            yield offset, header[offset:end]
        left_out = without & self._packed
        first = max(bisect_right(self._segments, offset, key=lambda t: t.offset) - 1, 0)
        for tensor in islice(self._segments, first, None):
            if tensor.offset >= end:
                break
            start, stop = max(offset, tensor.offset), min(end, tensor.offset + tensor.size)
            if start < stop and tensor.name not in left_out:
                part = slice(start - tensor.offset, stop - tensor.offset)
                yield start, self._latest(tensor).data[part]

    def _tensor_bytes(self, tensor: GgufTensor) -> np.ndarray:
        data = self._runs[tensor.name].data.reshape(-1)
        if tensor.name not in self._packed:
            return data
        try:
            form = self._forms[tensor.name]
            return packing.unpack(tensor.type.name, data, math.prod(tensor.shape), form)
        except ValueError as error:
            raise self._damaged(f"{tensor.name}: {error}") from None

    def _read_forms(self, said: dict[str, str]) -> dict[str, Form]:
        found = {}
        for tensor in self.original.tensors:
            kind, name = tensor.type.name, tensor.name
            if name not in self._packed or not packing.packable(kind):
                continue
            try:
                found[name] = forms.parse(said[name], kind) if name in said else forms.whole(kind)
            except ValueError as error:
                raise self._damaged(f"of the tensor {name!r}, {error}") from None
        return found

    def _check(self) -> None:
        """Check the original's header against the runs, so that false sizes use no memory."""
        position = self.original.data_start
        for tensor in self._segments:
            if not 0 <= tensor.offset - position <= _MOST_PADDING:
                raise self._damaged(
                    f"the tensor {tensor.name!r} has the wrong offset {tensor.offset}"
                )
            position = tensor.offset + tensor.size
        if not 0 <= self.size - position <= _MOST_PADDING:
            raise self._damaged(
                f"it declares {self.size} bytes, but its tensors end at byte {position}"
            )
        for tensor in self.original.tensors:
            run = self._runs.get(tensor.name)
            packed = tensor.name in self._packed
            form = self._forms.get(tensor.name)
            if run is None or (packed and form is None):
                raise self._damaged(f"the tensor {tensor.name!r} is missing")
            least = form.size(tensor.type.name, math.prod(tensor.shape), 0) if form else 0
            if run.size < least or (not packed and run.size != tensor.size):
                raise self._damaged(
                    f"the tensor {tensor.name!r} has the wrong size of {run.size} bytes"
                )

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self._path} is a damaged packed file: {reason}.", "Pack it again.")


def is_packed(path: Path) -> bool:
    """Tell whether a GGUF file is packed."""
    return open_gguf(path).get("general.architecture") == _ARCHITECTURE


def total_bytes(path: Path) -> int:
    """Read the bytes of a GGUF file, and check that it is one."""
    open_gguf(path)
    return path.stat().st_size


def open_any(path: Path) -> GgufFile:
    """Open a GGUF file, packed or not, as a plain one."""
    return PackedFile(path).original if is_packed(path) else open_gguf(path)


def pack(source: Path, target: Path, advance: Advance = lambda _bytes: None) -> dict[str, int]:
    """Write ``target``, and check that it unpacks to the source.

    Args:
        source: a GGUF file.
        target: appears only if unpacking it gives the source's bytes.
        advance: called with the number of source bytes packed.

    Returns:
        ``bytes`` of the source and of the target as ``packed_bytes``; ``tensors`` that were packed,
        their size before as ``tensor_bytes`` and after as ``packed_tensor_bytes``.

    Raises:
        UsageError: the source is already packed, has no zeros worth packing, or has a tensor of a
            reserved name.
        InputError: it is not a GGUF file.
        CheckFailed: the source has bytes between its tensors that GGUF does not define.
    """
    if is_packed(source):
        raise UsageError(f"{source} is already packed.")
    file = open_gguf(source)
    if any(tensor.name == _HEADER for tensor in file.tensors):
        raise UsageError(f"{source} has a tensor with the reserved name {_HEADER}.")
    found = {tensor.name: one for tensor in file.tensors if (one := _smaller(tensor))}
    packed = [tensor for tensor in file.tensors if tensor.name in found]
    if not packed:
        raise UsageError(
            f"Packing would not make any tensor of {source} smaller: it has too few zeros, and "
            "uses all codes.",
            "Pack a file that 'edgeprune build' has pruned, or given fewer codes.",
        )
    digest, size = hashlib.sha256(), source.stat().st_size
    with source.open("rb") as raw:
        while chunk := raw.read(_CHUNK):
            digest.update(chunk)
    with atomic_path(target) as temporary:
        _write(temporary, source, file, found, digest.hexdigest(), advance)
        if not _comes_back(temporary, digest.digest()):
            raise CheckFailed(
                f"{source} cannot be restored from its packed form: it has bytes between its "
                "tensors, or overlapping tensors.",
                "Rewrite the file with llama-quantize or edgeprune build.",
            )
    return {
        "bytes": size,
        "packed_bytes": target.stat().st_size,
        "tensors": len(packed),
        "tensor_bytes": sum(tensor.size for tensor in packed),
        "packed_tensor_bytes": sum(size for _, size in found.values()),
    }


def _write(
    path: Path,
    source: Path,
    file: GgufFile,
    packed: dict[str, tuple[Form, int]],
    digest: str,
    advance: Advance,
) -> None:
    """Write a packed file, whose hash is not checked yet."""
    with source.open("rb") as raw:
        header = np.frombuffer(raw.read(file.data_start), np.uint8)
    kinds = {tensor.name: tensor.type.name for tensor in file.tensors}
    narrow = any(form != forms.whole(kinds[name]) for name, (form, _) in packed.items())
    writer = GGUFWriter(path, _ARCHITECTURE)
    writer.add_name(str(file.get("general.name") or source.stem))
    writer.add_uint32("edgeprune.packed.schema", _SCHEMA if narrow else 1)
    writer.add_uint64("edgeprune.packed.size", source.stat().st_size)
    writer.add_string("edgeprune.packed.sha256", digest)
    writer.add_array("edgeprune.packed.tensors", list(packed))
    if narrow:
        said = [str(form) for form, _ in packed.values()]
        writer.add_array("edgeprune.packed.forms", said)
    _announce(writer, _HEADER, len(header))
    for tensor in file.tensors:
        _, size = packed.get(tensor.name, (None, tensor.size))
        _announce(writer, tensor.name, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_tensor_data(header)
    for tensor in file.tensors:
        data = tensor.data.reshape(-1)
        if tensor.name in packed:
            data = packing.pack(tensor.type.name, data, packed[tensor.name][0])
        writer.write_tensor_data(data)
        advance(tensor.size)
    writer.close()


def _comes_back(packed: Path, digest: bytes) -> bool:
    again = hashlib.sha256()
    try:
        for part in PackedFile(packed).chunks():
            again.update(part)
    except InputError:
        return False
    return again.digest() == digest


def unpack(source: Path, target: Path, advance: Advance = lambda _bytes: None) -> None:
    """Restore the file that a packed one was made from, bit for bit.

    Raises:
        InputError: the file is not packed, or its content does not match its hash.
    """
    file = PackedFile(source)
    digest = hashlib.sha256()
    with atomic_path(target) as temporary:
        with temporary.open("wb") as out:
            for part in file.chunks():
                out.write(part)
                digest.update(part)
                advance(len(part))
        if digest.hexdigest() != file.sha256:
            raise InputError(
                f"{source} is damaged: the unpacked content does not match the recorded SHA-256.",
                "Download or pack it again.",
            )


def _smaller(tensor: GgufTensor) -> tuple[Form, int] | None:
    """Return a tensor's packed form and its bytes; None if it is not smaller."""
    kind = tensor.type.name
    if len(tensor.shape) < 2 or not tensor.size or not packing.packable(kind):
        return None
    form, size = forms.find(kind, tensor.data.reshape(-1), tensor.shape[-1])
    return (form, size) if size < tensor.size else None


def _announce(writer: GGUFWriter, name: str, size: int) -> None:
    writer.add_tensor_info(name, (size,), np.dtype(np.int8), size, GGMLQuantizationType.I8)
