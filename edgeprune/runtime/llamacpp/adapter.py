"""Sparse weights inside the llama.cpp of this process (``llama_adapter.h``).

llama.cpp's CPU backend asks a list of buffer types which of them wants a weight. Ours goes to the
front of that list before the first model is loaded, and from then on takes the tensors that were
claimed for the model about to be loaded. llama.cpp itself is not changed.
"""

import ctypes
import re
from functools import lru_cache
from importlib.metadata import version
from itertools import count, takewhile
from typing import Any

from edgeprune.formats.gguf.file import GgufFile, GgufTensor
from edgeprune.formats.gguf.packed import PackedFile
from edgeprune.formats.metadata import read_gguf, read_storage
from edgeprune.runtime import library
from edgeprune.runtime.placement import Placement
from edgeprune.support.environment import cores
from edgeprune.support.errors import InputError, MachineError
from edgeprune.support.extras import load, need

# Versions of llama-cpp-python that were tested, the oldest first; pyproject.toml's extras `gguf`
# and `serve` ask for these alone (tests/unit/runtime/test_extras.py). A newer one is looked at and
# probed like these, and used if it passes.
CHECKED = ("0.3.36",)

_TOO_LATE, _NO_FORM, _DAMAGED = -4, -6, -7  # ep_llama_failure
_HEAD = "output.weight"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("shape", library.Shape),
        ("packed_size", ctypes.c_size_t),
        ("source", ctypes.c_void_p),
        ("source_size", ctypes.c_size_t),
        ("form", library.FileForm),
    )


class _Offer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("nonzeros", ctypes.c_int64),
        ("alphabet", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("packed", ctypes.POINTER(library.FileForm)),
    )


_REPORT = ("tensors", "packed_bytes", "dense_bytes", "failures", "exhausted")


class _Report(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _REPORT)


def check() -> None:
    """Check that the installed llama-cpp-python is no older than the tested versions.

    Raises:
        MachineError: it is older, or it is not installed.
    """
    need("llama_cpp")
    found = version("llama-cpp-python")
    if _numbers(found) < _numbers(CHECKED[0]):
        raise MachineError(
            f"llama-cpp-python {found} is older than this edgeprune was tested with; expected "
            f"{CHECKED[0]} or newer: pip install 'llama-cpp-python=={CHECKED[-1]}'"
        )


def untested() -> str:
    """Return the installed version of llama-cpp-python if it is newer than those tested."""
    found = version("llama-cpp-python")
    return found if _numbers(found) > _numbers(CHECKED[-1]) else ""


@lru_cache
def attach() -> None:
    """Make llama.cpp use sparse weights, once per process.

    Raises:
        MachineError: this llama.cpp is of another kind than those that were tested, it has loaded a
            model before, or the kernel library is missing.
    """
    llama = load("llama_cpp").llama_cpp._lib  # its own handle: a path may open a second copy
    names = map(_library().ep_llama_needs, count())
    try:
        found = [
            ctypes.cast(getattr(llama, name.decode()), ctypes.c_void_p)
            for name in takewhile(lambda name: name is not None, names)
        ]
    except AttributeError as error:
        raise MachineError(
            f"This build of llama.cpp does not export a required symbol: {error}."
        ) from None
    functions = (ctypes.c_void_p * len(found))(*(pointer.value for pointer in found))
    if fault := _library().ep_llama_fault(functions):
        raise MachineError(
            f"This version of llama.cpp differs inside from those tested: {fault.decode()}."
        )
    result = library.enough(_library().ep_llama_attach(functions))
    if result == _TOO_LATE:
        raise MachineError(
            "A model was loaded before; call edgeprune.runtime.enable() before loading the first."
        )
    if result:
        raise MachineError("This build of llama.cpp has other operation names than expected.")


def claim(file: GgufFile | PackedFile) -> frozenset[str]:
    """Claim tensors that gain from packing of the next model that this thread loads.

    Sizes follow from the metadata if possible, else from the file's own bytes; a weight that turns
    out to need more takes memory of its own. Tensors that are packed in the file are taken from
    there, so ``file`` must stay open until `release`, and what llama.cpp reads for them is ignored;
    one that has changed since is one of `Placement.failures`. Which tensors gain,
    ``ep_llama_place`` decides.

    Returns:
        The names of the claimed tensors.

    Raises:
        InputError: the file's sparsity metadata is invalid, or a packed tensor is damaged.
        MachineError: memory ran out.
    """
    original, claims = plain(file), list[_Tensor]()
    metadata, alphabets = read_gguf(original), read_storage(original)
    nonzeros = metadata.nonzeros if metadata else {}
    tied = all(tensor.name != _HEAD for tensor in original.tensors)
    for tensor in original.tensors:
        if len(tensor.shape) == 2:
            offer = _offer(file, tensor, nonzeros.get(tensor.name, -1), alphabets.get(tensor.name))
            if claimed := _placed(offer, tied):
                claims.append(claimed)
            file.drop_pages()
    listed = (_Tensor * len(claims))(*claims)
    library.enough(_library().ep_llama_claim(listed, len(claims), cores()))
    return frozenset(entry.name.decode() for entry in claims)


def release() -> None:
    """Release this thread's claim: later models are not packed."""
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


def _offer(
    file: GgufFile | PackedFile, tensor: GgufTensor, nonzeros: int, alphabet: str | None
) -> _Offer:
    data = held = None
    if isinstance(file, PackedFile) and (data := file.stored(tensor.name)) is not None:
        held = ctypes.pointer(library.FileForm.of(file.form(tensor.name)))
    if data is None:
        data = tensor.data
    return _Offer(
        tensor.name.encode(), tensor.type, *tensor.shape, nonzeros, alphabet and alphabet.encode(),
        data.ctypes.data, data.nbytes, held,
    )  # fmt: skip


def _placed(offer: _Offer, tied: bool) -> _Tensor | None:
    """Make a claim; None if the tensor is better left to llama.cpp."""
    claimed, name = _Tensor(), offer.name.decode()
    result = library.enough(_library().ep_llama_place(offer, tied, cores(), claimed))
    claimed.name = offer.name  # held by ours, not by the offer alone
    if result == _NO_FORM:
        alphabet = offer.alphabet.decode()
        raise InputError(f"The storage metadata is damaged: {name!r} cannot stand in {alphabet!r}.")
    if result == _DAMAGED:
        raise InputError(f"The packed tensor {name!r} is damaged.", "Pack it again.")
    return claimed if result else None


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", found)[:3]))


@lru_cache
def _library() -> Any:
    functions = library.library()
    functions.ep_llama_needs.restype = functions.ep_llama_fault.restype = ctypes.c_char_p
    functions.ep_llama_place.argtypes = [
        ctypes.POINTER(_Offer), ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Tensor),
    ]  # fmt: skip
    functions.ep_llama_attach.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
    functions.ep_llama_fault.argtypes = functions.ep_llama_attach.argtypes
    functions.ep_llama_claim.argtypes = [ctypes.POINTER(_Tensor), ctypes.c_size_t, ctypes.c_int]
    functions.ep_llama_reported.restype = _Report
    return functions
