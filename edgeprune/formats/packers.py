"""The packing module of each kind of file."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from edgeprune.support.errors import UsageError

_MODULES = {
    (".gguf", "bitmask"): "gguf.packed",
    (".onnx", "bitmask"): "onnx.packed",
    (".onnx", "coo"): "onnx.coo",
}


def packer(path: Path, storage: str = "bitmask") -> ModuleType:
    """Find the module that packs a file: ONNX by the file's name, else GGUF.

    Raises:
        UsageError: files of this kind have no such storage.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: only GGUF and ONNX files are packed.")
    if (module := _MODULES.get((_ending(path), storage))) is None:
        raise UsageError(f"--storage {storage} is for ONNX files; {path} is not one.")
    return import_module(f"edgeprune.formats.{module}")


def packed_name(path: Path, storage: str = "bitmask") -> Path:
    """Name the packed file: ``model.packed.gguf`` beside ``model.gguf``."""
    word = "packed" if storage == "bitmask" else storage
    return path.with_name(f"{path.name.removesuffix(_ending(path))}.{word}{_ending(path)}")


def _ending(path: Path) -> str:
    return ".onnx" if path.suffix == ".onnx" else ".gguf"
