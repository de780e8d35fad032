"""Weights of a checkpoint, read tensor by tensor from safetensors files."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(
    path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the error of the operating system, which safetensors wraps in its own.
    """
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        if not match:
            raise
        code = int(match[1])
        raise OSError(code, os.strerror(code), str(path)) from None


def is_whole(path: Path) -> bool:
    """Tell whether a safetensors file exists and has the size it declares."""
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files transformers would read: those of the index, if there is one.

    Raises:
        InputError: the index is not one.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(folder / Path(name).name for name in names)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{index} is not a shard index.") from None


class Weights:
    """A read-only view of one checkpoint over several files; later files win.

    A pruned checkpoint is its base plus one small file per pruned block, so that nothing is
    stored twice.

    Args:
        files: safetensors files; memory-mapped, never loaded whole.

    Raises:
        InputError: a file is missing, truncated or not safetensors.
    """

    def __init__(self, files: Iterable[Path]):
        self._file_of: dict[str, Path] = {}
        self._handles = {}
        for path in files:
            try:
                handle = safe_open(path, framework="numpy")  # headers need no torch
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{path} is not a valid safetensors file: {error}.",
                    "Download it again; the usual cause is an incomplete download.",
                ) from None
            self._handles[path] = handle
            self._file_of |= dict.fromkeys(handle.keys(), path)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without reading it."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the type of a tensor in safetensors' spelling, without reading it."""
        return self._slice(name).get_dtype()

    def read(self, name: str) -> "Tensor":
        """Read one tensor in its stored type."""
        with safe_open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)

    def _slice(self, name: str):  # type: ignore[no-untyped-def]  # safetensors' own opaque type
        return self._handles[self._file_of[name]].get_slice(name)
