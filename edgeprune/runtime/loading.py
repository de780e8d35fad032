"""Loading models into llama.cpp: sparse weights without their zeros, packed files as they are."""

import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import InputError
from edgeprune.extras import load
from edgeprune.runtime import adapter, stream, switch
from edgeprune.sparsity.gguf_file import GgufFile, open_gguf
from edgeprune.sparsity.packed_file import PackedFile, is_packed, unpack

_MARK = "_edgeprune_stock"


@dataclass(frozen=True)
class Loaded:
    """A model in llama.cpp.

    Attributes:
        model: llama.cpp's pointer; None where it refuses the file.
        sparse: what became of its sparse weights; None if they run dense, or there are none.
        off: why sparse weights run dense; empty if they don't.
    """

    model: Any
    sparse: adapter.Placed | None = None
    off: str = ""


def enable() -> switch.Status:
    """From here on, `llama_cpp.Llama` runs sparse weights as such, and opens packed files too.

    Call it before the first model is loaded; models without sparse weights are loaded as ever. May
    be called any number of times.

    Returns:
        Whether sparse weights are on, and if not, why.

    Raises:
        MachineError: llama-cpp-python is not installed.
    """
    api = load("llama_cpp").llama_cpp
    if not hasattr(api, _MARK):
        setattr(api, _MARK, api.llama_model_load_from_file)

        def load_any(path: bytes, params: Any) -> Any:
            return load_model(Path(path.decode()), params).model

        api.llama_model_load_from_file = load_any
    return switch.status()


def load_model(path: Path, params: Any) -> Loaded:
    """Load a GGUF file, packed or plain, into llama.cpp.

    Args:
        path: the file.
        params: ``llama_model_params``; of a packed file or a sparse one, nothing can be mapped.

    Raises:
        InputError: a packed file is damaged, or a file changed while it was loaded.
    """
    status = switch.status()  # first of all: llama.cpp looks for buffer types only once
    file = _opened(path)
    packed = file if isinstance(file, PackedFile) else None
    if file is None or not adapter.is_sparse(adapter.plain(file)):
        return Loaded(_load(path, packed, params))
    claimed = adapter.claim(file) if status.on else frozenset()
    if not claimed:
        off = "all tensors are too dense to gain" if status.on else status.reason
        _say_once(f"Sparse weights are off: {off}. The model runs dense.")
        return Loaded(_load(path, packed, params), off=off)
    api = load("llama_cpp").llama_cpp
    params.load_mode = api.LLAMA_LOAD_MODE_NONE  # a mapping would keep the zeros in memory
    try:
        model = _load(path, packed, params, claimed)
        placed = adapter.placed(len(claimed))
    finally:
        adapter.release()
    if model and placed.failures:
        api.llama_model_free(model)
        raise InputError(f"{path} changed while it was loaded.", "Load it again.")
    if not model or placed.tensors == placed.claimed:
        return Loaded(model, placed)
    off = f"llama.cpp took {placed.tensors} of {placed.claimed} tensors; was another model loaded "
    off += "before edgeprune.runtime.enable()?"
    _say_once(f"Sparse weights are off: {off} The model runs dense.")
    api.llama_model_free(model)  # what was claimed and not taken may have been left out
    return Loaded(_load(path, packed, params), off=off)


def _load(
    path: Path, packed: PackedFile | None, params: Any, claimed: frozenset[str] = frozenset()
) -> Any:
    api = load("llama_cpp").llama_cpp
    stock = getattr(api, _MARK, api.llama_model_load_from_file)
    if not packed:
        return stock(str(path).encode(), params)
    params.load_mode = api.LLAMA_LOAD_MODE_NONE
    if stream.available():
        read = partial(packed.read, without=claimed)
        with stream.as_c_file(packed.size, read) as opened:
            model = api.llama_model_load_from_file_ptr(opened.pointer, params)
        if opened.failure:
            if model:
                api.llama_model_free(model)
            raise opened.failure
        return model
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        plain = Path(folder) / "model.gguf"
        click.echo(f"{path} is unpacked into {folder} while it is loaded.", err=True)
        unpack(path, plain)
        return stock(str(plain).encode(), params)


def _opened(path: Path) -> GgufFile | PackedFile | None:
    """The file, if it is GGUF; whatever else it is, llama.cpp may say."""
    try:
        packed = is_packed(path)
    except InputError:
        return None
    return PackedFile(path) if packed else open_gguf(path)


@lru_cache
def _say_once(line: str) -> None:
    click.echo(line, err=True)
