"""Load models into llama.cpp: sparse weights without their zeros, and packed files directly."""

import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import RLock
from typing import Any

import click

from edgeprune.formats.gguf.file import GgufFile, open_gguf
from edgeprune.formats.gguf.packed import PackedFile, is_packed, unpack
from edgeprune.runtime.llamacpp import adapter, availability, stream
from edgeprune.runtime.placement import Placement
from edgeprune.support.errors import InputError, MachineError
from edgeprune.support.extras import load

_MARK = "_edgeprune_stock"
# What is claimed belongs to the next model, whichever thread loads it.
_ONE_AT_A_TIME = RLock()
_LATE = "llama.cpp placed none; call edgeprune.runtime.enable() before loading the first model"


@dataclass(frozen=True)
class Loaded:
    """A model in llama.cpp.

    Attributes:
        model: llama.cpp's pointer; None if it rejects the file.
        sparse: placement report of its sparse weights; None if they run dense or there are none.
        off: why sparse weights run dense; empty if they run sparse.
    """

    model: Any
    sparse: Placement | None = None
    off: str = ""


def enable() -> availability.Status:
    """Make `llama_cpp.Llama` run sparse weights with sparse kernels, and open packed files.

    Call it before the first model is loaded; models without sparse weights load as usual. It may be
    called any number of times.

    Returns:
        Whether sparse weights are on, and if not, why.

    Raises:
        MachineError: llama-cpp-python is not installed.
    """
    api = load("llama_cpp").llama_cpp
    with _ONE_AT_A_TIME:  # two at once would take each other's function for llama.cpp's own
        if not hasattr(api, _MARK):
            setattr(api, _MARK, api.llama_model_load_from_file)
            api.llama_model_load_from_file = _load_any
        return availability.status()


def _load_any(path: bytes, params: Any) -> Any:
    """Load a model in place of llama.cpp's own function."""
    return load_model(Path(path.decode()), params).model


def load_model(path: Path, params: Any) -> Loaded:
    """Load a GGUF file, packed or plain, into llama.cpp.

    Args:
        path: the file.
        params: ``llama_model_params``; packed and sparse files are read, not mapped.

    Raises:
        InputError: a packed file is damaged, or a file changed while it was being loaded.
    """
    with _ONE_AT_A_TIME:
        status = availability.status()  # first of all: llama.cpp looks for buffer types only once
        file = _opened(path)
        if file is None or params.vocab_only or params.no_alloc:
            return Loaded(_load(path, file, params))
        off = _why_not(file, params, status)
        if off is None:
            return Loaded(_load(path, file, params))
        if off:
            return _dense(path, file, params, off)
        loaded = _sparse(path, file, params)
        if loaded is None:
            return _dense(path, file, params, "all tensors are too dense to run faster")
        if loaded.sparse and loaded.sparse.failures:
            raise InputError(f"{path} changed while it was being loaded.", "Load it again.")
        return loaded if loaded.sparse else _dense(path, file, params, _LATE)


def _why_not(file: GgufFile | PackedFile, params: Any, status: availability.Status) -> str | None:
    """Say why a file's sparse weights must run dense; empty if not, None if it has none."""
    try:
        if not adapter.gains(adapter.plain(file)):
            return None
    except InputError as error:  # llama.cpp does not look at our metadata
        return str(error)
    if not status.on:
        return status.reason
    if params.n_gpu_layers and load("llama_cpp").llama_cpp.llama_supports_gpu_offload():
        return "layers are offloaded to the GPU"
    return "" if params.use_extra_bufts else "extra buffer types are disabled"


def _sparse(path: Path, file: GgufFile | PackedFile, params: Any) -> Loaded | None:
    """Load with sparse weights; None if none would gain, and no model unless all are placed."""
    claimed = adapter.claim(file)
    if not claimed:
        return None
    try:
        model = _load(path, file, _unmapped(params), claimed)
        try:
            placed = adapter.placed(len(claimed))
        except MachineError:
            if model:
                load("llama_cpp").llama_cpp.llama_model_free(model)
            raise
    finally:
        adapter.release()
    if not model or (placed.tensors == placed.claimed and not placed.failures):
        return Loaded(model, placed)
    load("llama_cpp").llama_cpp.llama_model_free(model)
    return Loaded(None, placed if placed.failures else None)


def _dense(path: Path, file: GgufFile | PackedFile, params: Any, off: str) -> Loaded:
    _say_once(f"Sparse weights are off: {off.rstrip('.')}. The model runs dense.")
    return Loaded(_load(path, file, params), off=off)


def _unmapped(params: Any) -> Any:
    """Copy parameters so that weights are read, not mapped."""
    api = load("llama_cpp").llama_cpp
    params = type(params).from_buffer_copy(params)
    locked = params.load_mode in (api.LLAMA_LOAD_MODE_MLOCK, api.LLAMA_LOAD_MODE_MMAP_MLOCK)
    params.load_mode = api.LLAMA_LOAD_MODE_MLOCK if locked else api.LLAMA_LOAD_MODE_NONE
    params.no_host = True  # a GPU's host memory would come before our buffer type
    return params


def _load(
    path: Path,
    file: GgufFile | PackedFile | None,
    params: Any,
    claimed: frozenset[str] = frozenset(),
) -> Any:
    api = load("llama_cpp").llama_cpp
    stock = getattr(api, _MARK, api.llama_model_load_from_file)
    if not isinstance(file, PackedFile):
        return stock(str(path).encode(), params)
    if stream.available():
        read = partial(file.read, without=claimed)
        with stream.as_c_file(file.size, read) as opened:
            model = api.llama_model_load_from_file_ptr(opened.pointer, _unmapped(params))
        if opened.failure:
            if model:
                api.llama_model_free(model)
            raise opened.failure
        return model
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        plain = Path(folder) / "model.gguf"
        click.echo(f"{path} is unpacked to {folder} while it is loaded.", err=True)
        unpack(path, plain)
        return stock(str(plain).encode(), params)


def _opened(path: Path) -> GgufFile | PackedFile | None:
    """Open the file if it is GGUF; otherwise llama.cpp reports the error."""
    try:
        packed = is_packed(path)
    except InputError:
        return None
    return PackedFile(path) if packed else open_gguf(path)


@lru_cache
def _say_once(line: str) -> None:
    click.echo(line, err=True)
