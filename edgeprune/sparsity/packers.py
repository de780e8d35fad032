"""Which module packs which kind of file."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from edgeprune.errors import UsageError

_OF_SUFFIX = {".gguf": "edgeprune.sparsity.packed_file", ".onnx": "edgeprune.sparsity.onnx_packed"}


def packer(path: Path) -> ModuleType:
    """The module whose ``pack`` leaves the zeros out of a file, by its name.

    Raises:
        UsageError: there is none for such files.
    """
    if path.suffix not in _OF_SUFFIX:
        raise UsageError(f"{path} can't be packed.", f"Give a {' or '.join(_OF_SUFFIX)} file.")
    return import_module(_OF_SUFFIX[path.suffix])


def packed_name(path: Path) -> Path:
    """What the packed file is called: ``model.packed.gguf`` beside ``model.gguf``."""
    return path.with_name(f"{path.stem}.packed{path.suffix}")
