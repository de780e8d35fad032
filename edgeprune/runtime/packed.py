"""Loading packed files into llama.cpp as if they were the plain ones."""

import tempfile
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import InputError
from edgeprune.extras import load
from edgeprune.runtime import stream
from edgeprune.sparsity.packed_file import PackedFile, is_packed, unpack

_MARK = "_edgeprune_stock"


def enable() -> None:
    """From here on, `llama_cpp.Llama` and the low-level loader open packed files too.

    Other files are loaded as ever. May be called any number of times.

    Raises:
        MachineError: llama-cpp-python is not installed.
    """
    api = load("llama_cpp").llama_cpp
    if hasattr(api, _MARK):
        return
    setattr(api, _MARK, api.llama_model_load_from_file)

    def load_any(path: bytes, params: Any) -> Any:
        return load_model(Path(path.decode()), params)

    api.llama_model_load_from_file = load_any


def load_model(path: Path, params: Any) -> Any:
    """llama.cpp's model of a GGUF file, packed or plain; None where llama.cpp refuses it.

    A packed file is handed over as a stream that unpacks what is read. Where the C library can't
    make one, it is unpacked into a temporary file, which is said and removed.

    Args:
        path: the file.
        params: ``llama_model_params``; of a packed file, nothing can be mapped.

    Raises:
        InputError: a packed file is damaged.
    """
    api = load("llama_cpp").llama_cpp
    stock = getattr(api, _MARK, api.llama_model_load_from_file)
    if not _is_packed(path):
        return stock(str(path).encode(), params)
    file = PackedFile(path)
    params.load_mode = api.LLAMA_LOAD_MODE_NONE
    if stream.available():
        with stream.as_c_file(file.size, file.read) as opened:
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


def _is_packed(path: Path) -> bool:
    """Whether it is ours to open; whatever else a file is, llama.cpp may say."""
    try:
        return is_packed(path)
    except InputError:
        return False
