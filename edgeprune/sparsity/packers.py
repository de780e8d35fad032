"""Which module packs which kind of file."""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def packer(path: Path) -> ModuleType:
    """The module whose ``pack`` leaves the zeros out of a file: ONNX by its name, else GGUF."""
    kind = "onnx_packed" if path.suffix == ".onnx" else "packed_file"
    return import_module(f"edgeprune.sparsity.{kind}")


def packed_name(path: Path) -> Path:
    """What the packed file is called: ``model.packed.gguf`` beside ``model.gguf``."""
    ending = ".onnx" if path.suffix == ".onnx" else ".gguf"
    return path.with_name(f"{path.name.removesuffix(ending)}.packed{ending}")
