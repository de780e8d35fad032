"""Sparse weights inside the llama.cpp of this process (``llama_adapter.h``).

llama.cpp's CPU backend asks a list of buffer types which of them wants a weight. Ours goes to the
front of that list before the first model is loaded, and from then on takes the tensors that were
claimed for the model about to be loaded. llama.cpp itself is not changed.
"""

import ctypes
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edgeprune.formats import forms
from edgeprune.formats.forms import Form
from edgeprune.formats.gguf.file import GgufFile, GgufTensor
from edgeprune.formats.gguf.packed import PackedFile
from edgeprune.formats.metadata import read_gguf, read_storage
from edgeprune.runtime import library
from edgeprune.runtime.placement import Placement
from edgeprune.support.environment import cores
from edgeprune.support.errors import InputError, MachineError
from edgeprune.support.extras import load, need

# Versions of llama-cpp-python whose inside is as llama_internals.h says; pyproject.toml's
# extras `gguf` and `serve` ask for these alone (tests/unit/runtime/test_extras.py).
CHECKED = ("0.3.36",)

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
# In the order of ep_llama_functions; the first has a C++ name.
_FUNCTIONS = (
    "_Z39ggml_backend_cpu_get_extra_buffer_typesv",
    "ggml_backend_cpu_buffer_type",
    "ggml_backend_buft_alloc_buffer",
    "ggml_backend_cpu_reg",
    "ggml_backend_reg_dev_get",
    "ggml_barrier",
    "ggml_op_name",
)


class _Functions(ctypes.Structure):
    _fields_ = tuple((f"f{i}", ctypes.c_void_p) for i in range(len(_FUNCTIONS)))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("shape", library.Shape),
        ("packed_size", ctypes.c_size_t),
        ("source", ctypes.c_void_p),
        ("source_size", ctypes.c_size_t),
        ("form", library.FileForm),
    )


_REPORT = ("tensors", "packed_bytes", "dense_bytes", "failures", "exhausted")


class _Report(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _REPORT)


def check() -> None:
    """Check the installed llama-cpp-python against the tested versions.

    Raises:
        MachineError: its version is not tested, or it is not installed.
    """
    from importlib.metadata import version

    need("llama_cpp")
    found = version("llama-cpp-python")
    if found not in CHECKED:
        raise MachineError(
            f"llama-cpp-python {found} is not tested with this version of edgeprune; expected "
            f"{', '.join(CHECKED)}: pip install 'llama-cpp-python=={CHECKED[-1]}'"
        )


@lru_cache
def attach() -> None:
    """Make llama.cpp use sparse weights, once per process.

    Raises:
        MachineError: this build of llama.cpp lacks a function, or the kernel library is missing.
    """
    llama = load("llama_cpp").llama_cpp._lib  # its own handle: a path may open a second copy
    try:
        pointers = [ctypes.cast(getattr(llama, name), ctypes.c_void_p) for name in _FUNCTIONS]
    except AttributeError as error:
        raise MachineError(
            f"This build of llama.cpp does not export a required symbol: {error}."
        ) from None
    functions = _Functions(*(pointer.value for pointer in pointers))
    if library.enough(_library().ep_llama_attach(functions)):
        raise MachineError("This build of llama.cpp has other operation names than expected.")


def claim(file: GgufFile | PackedFile, count: bool = False) -> frozenset[str]:
    """Claim the next model's tensors that gain from packing, instead of those of any earlier one.

    Sizes follow from the metadata if possible, else from the file's own bytes; what does not match
    is one of `Placement.failures`, and ``count`` ignores the metadata. Tensors that are packed in
    the file are taken from there, so ``file`` must stay open until `release`, and what llama.cpp
    reads for them is ignored. For benchmarks, ``EDGEPRUNE_LAYOUT=sparse`` packs pruned tensors of
    any density, and ``dense`` keeps the zeros in the same tiles, which shows what sparsity itself
    brings.

    Returns:
        The names of the claimed tensors.

    Raises:
        InputError: the file's sparsity metadata is invalid, or a packed tensor is damaged.
        MachineError: memory ran out.
    """
    forced, claims = os.environ.get("EDGEPRUNE_LAYOUT"), []
    for found in candidates(plain(file), all_densities=forced is not None):
        tensor, form, stored = found.tensor, found.form, None
        if isinstance(file, PackedFile) and (stored := file.stored(tensor.name)) is not None:
            form = file.form(tensor.name)
        elif count:
            form, _ = forms.find(tensor.type.name, tensor.data.reshape(-1), tensor.shape[-1])
        shape = _shape(found, form, forced)
        if shape is None:
            continue
        claims.append(_claim(found, shape, form, stored, count))
        file.drop_pages()
    listed = (_Tensor * len(claims))(*claims)
    library.enough(_library().ep_llama_claim(listed, len(claims), cores()))
    return frozenset(entry.name.decode() for entry in claims)


def release() -> None:
    """Release the claim: later models are not packed."""
    _library().ep_llama_claim(None, 0, 1)


def placed(claimed: int) -> Placement:
    """Report the result of the latest claim.

    Raises:
        MachineError: memory ran out while a tensor was packed; the model must not be used.
    """
    report = _library().ep_llama_reported()
    *counts, exhausted = (getattr(report, name) for name in _REPORT)
    if exhausted:
        raise MachineError(
            f"Out of memory while packing {exhausted} of {claimed} sparse weights.",
            "Close other programs, or use a smaller model.",
        )
    return Placement(claimed, *counts)


def plain(file: GgufFile | PackedFile) -> GgufFile:
    """Return the file as it is when unpacked."""
    return file.original if isinstance(file, PackedFile) else file


def gains(file: GgufFile) -> bool:
    """Tell whether edgeprune wrote a file, and pruned some of its tensors or gave them few codes.

    Raises:
        InputError: the file's metadata is invalid.
    """
    metadata = read_gguf(file)
    return bool((metadata and metadata.nonzeros) or read_storage(file))


@dataclass(frozen=True)
class Candidate:
    """A tensor that gains from packing.

    Attributes:
        tensor: of the plain file.
        form: how its codes can stand, as the metadata says.
        nonzeros: as the metadata says; 0 if it was not pruned.
        dense: whether it gains without leaving anything out, by the kernels alone.
    """

    tensor: GgufTensor
    form: Form
    nonzeros: int = 0
    dense: bool = False


def candidates(file: GgufFile, all_densities: bool = False) -> list[Candidate]:
    """List tensors that gain from packing.

    The metadata says how dense the tensors are. Above the break-even density of the kernels in use,
    in the head, and where neither zeros nor few codes were asked for, a tensor stands as it is if
    the kernels gain even then; else it is left to llama.cpp. An embedding that is the head, too, is
    looked up in the same memory.

    Raises:
        InputError: the file's metadata is invalid.
    """
    metadata, alphabets = read_gguf(file), read_storage(file)
    nonzeros = metadata.nonzeros if metadata else {}
    untied = any(tensor.name == _HEAD for tensor in file.tensors)
    head = _HEAD if untied else _EMBEDDING
    found = []
    for tensor in file.tensors:
        name, kind = tensor.name, tensor.type.name
        ours = name.startswith("blk.") or name in {*nonzeros, *alphabets, head}
        if not ours or kind not in library.TYPES or len(tensor.shape) != 2:
            continue
        narrow, pruned = name in alphabets and library.narrow_gains(), name in nonzeros
        form = _form(alphabets[name], kind, name) if narrow else forms.whole(kind)
        most = math.prod(tensor.shape) * (1 if all_densities else library.break_even(kind))
        if narrow or (pruned and nonzeros[name] <= most):
            found.append(Candidate(tensor, form, nonzeros.get(name, 0)))
        elif library.dense_gains(kind) and not (untied and name == _EMBEDDING):
            found.append(Candidate(tensor, form, dense=True))
    return found


def _shape(found: Candidate, form: Form, forced: str | None) -> library.Shape | None:
    """Choose a layout; None if there are no kernels for it, or they gain nothing.

    An embedding stands with its zeros, where a row has its place: without them llama.cpp would take
    a second one for its look-ups.
    """
    kind, size = found.tensor.type.name, (found.tensor.shape[0], found.tensor.shape[1])
    with_zeros = found.dense or (found.tensor.name == _EMBEDDING and form.masked)
    shape = None if with_zeros else library.shape_of(kind, size, form)
    if shape is None:
        return library.dense_shape(kind, size) if library.dense_gains(kind) else None
    if forced == "dense":
        shape.layout, shape.bits = library.DENSE, 0
    return shape


def _form(text: str, kind: str, name: str) -> Form:
    try:
        return forms.parse(text, kind)
    except ValueError as error:
        raise InputError(f"The storage metadata is damaged: of {name!r}, {error}.") from None


def _claim(
    found: Candidate, shape: library.Shape, form: Form, stored: np.ndarray | None, count: bool
) -> _Tensor:
    """Make a claim with the bytes that a tensor will take."""
    name, tensor, held = found.tensor.name, found.tensor, library.FileForm.of(form)
    if stored is not None:
        source, source_size = stored.ctypes.data, len(stored)
        counted = _library().ep_packed_size_of_file(shape, held, source, source_size, cores())
        if not library.enough(counted):
            raise InputError(f"The packed tensor {name!r} is damaged.", "Pack it again.")
        return _Tensor(name.encode(), shape, counted, source, source_size, held)
    size = 0 if count else _library().ep_packed_size_of_count(shape, found.nonzeros)
    data = tensor.data.ctypes.data
    size = size or library.enough(_library().ep_packed_size(shape, data, cores()))
    return _Tensor(name.encode(), shape, size, None, 0, held)


@lru_cache
def _library() -> Any:
    functions = library.library()
    functions.ep_llama_attach.argtypes = [ctypes.POINTER(_Functions)]
    functions.ep_llama_claim.argtypes = [ctypes.POINTER(_Tensor), ctypes.c_size_t, ctypes.c_int]
    functions.ep_llama_reported.restype = _Report
    return functions
