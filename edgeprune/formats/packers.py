"""Which module packs which kind of file."""

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
    """The module whose ``pack`` leaves the zeros out of a file: ONNX by its name, else GGUF.

    Raises:
        UsageError: there is no such storage of such files.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: only GGUF and ONNX files are packed.")
    if (module := _MODULES.get((_ending(path), storage))) is None:
        raise UsageError(f"--storage {storage} is for ONNX files; {path} is none.")
    return import_module(f"edgeprune.formats.{module}")


def packed_name(path: Path, storage: str = "bitmask") -> Path:
    """What the packed file is called: ``model.packed.gguf`` beside ``model.gguf``."""
    word = "packed" if storage == "bitmask" else storage
    return path.with_name(f"{path.name.removesuffix(_ending(path))}.{word}{_ending(path)}")


def _ending(path: Path) -> str:
    return ".onnx" if path.suffix == ".onnx" else ".gguf"
