"""Finished blocks and the streams' hidden states on disk, so that a killed run can resume.

Order of writing per block: its weights and records, then the hidden states after it. A set of
hidden states under its final name therefore means that every block before it is complete.

Hidden states live in memory-mapped files from the start: what memory there is serves as their
cache, what there isn't is the system's to write back, and nothing is copied to be kept.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgeprune.formats.weights import save_tensors
from edgeprune.support.distributed import world
from edgeprune.support.files import atomic_path


@dataclass(frozen=True)
class TensorRecord:
    """What pruning did to one weight matrix.

    Attributes:
        name: the matrix's name in the checkpoint.
        shape: (out, in).
        nonzeros: number of weights that pruning kept.
        exclusive: shares of input channels that the general and the task stream use more; None if
            only one stream was looked at.
        error: relative output error ``tr (ΔW H ΔWᵀ) / tr (W H Wᵀ)`` on the joined streams; None if
            the method gathers no Gram matrix.
        rounded_to_zero: number of kept weights that calibrated rounding made
            zero; None if it did not round them.
    """

    name: str
    shape: tuple[int, int]
    nonzeros: int
    exclusive: tuple[float, float] | None = None
    error: float | None = None
    rounded_to_zero: int | None = None

    @property
    def sparsity(self) -> float:
        """Return the share of zeros that pruning made."""
        return 1 - self.nonzeros / (self.shape[0] * self.shape[1])


@dataclass(frozen=True)
class PrunedTensors:
    """The result of pruning a block or the head; names are the checkpoint's.

    Attributes:
        tensors: tensors that replace the checkpoint's own.
        records: one record for each weight matrix.
        calibration: tensors for the export, see `edgeprune.engine.PrunedCheckpoint`.
    """

    tensors: dict[str, Tensor]
    records: list[TensorRecord]
    calibration: dict[str, Tensor]


_RECORDS = TypeAdapter(list[TensorRecord])


@dataclass(frozen=True)
class HiddenShape:
    """Shape and type of a stream's hidden states; files of another size do not belong to it.

    Attributes:
        shape: (samples, length, width).
        dtype: type of the states.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Return the size of the file in bytes."""
        samples, length, width = self.shape
        return samples * length * width * self.dtype.itemsize


class BlockStore:
    """The folder of one pruning run."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def block_file(self, index: int) -> Path:
        """Path of a block's pruned weights."""
        return self._folder / f"block-{index:04d}.safetensors"

    def calibration_file(self, index: int) -> Path:
        """Path of the calibration tensors that a block's export needs."""
        return self._folder / f"calibration-{index:04d}.safetensors"

    def complete(self, blocks: int) -> bool:
        """Tell whether every block of a finished run is still there and whole."""
        try:
            for index in range(blocks):
                self.records(index)
                with safe_open(self.calibration_file(index), framework="pt"):
                    pass
            return True
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return False

    def records(self, index: int) -> list[TensorRecord]:
        """Read the records of a finished block's tensors."""
        with safe_open(self.block_file(index), framework="pt") as file:
            return _RECORDS.validate_json(file.metadata()["records"])

    def save_block(self, index: int, pruned: PrunedTensors) -> None:
        """Keep a pruned block; its weights are written last and mark it as complete."""
        metadata = {"records": json.dumps([asdict(record) for record in pruned.records])}
        with atomic_path(self.calibration_file(index)) as path:
            save_tensors(path, pruned.calibration)
        with atomic_path(self.block_file(index)) as path:
            save_tensors(path, pruned.tensors, metadata)

    def new_hidden(self, index: int, shapes: dict[str, HiddenShape]) -> dict[str, Tensor]:
        """Allocate the hidden states that block ``index`` will read.

        Raises:
            OSError: the disk cannot hold them.
        """
        hidden = {}
        for stream, shape in shapes.items():
            path = self._hidden_file(index, stream, ".part")
            with path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # a mapped file must not run out of disk later
                    os.posix_fallocate(file.fileno(), 0, shape.bytes)
                else:  # macOS, Windows
                    file.truncate(shape.bytes)
            hidden[stream] = _mapped(path, shape)
        return hidden

    def keep_hidden(self, index: int, shapes: dict[str, HiddenShape]) -> None:
        """Declare the hidden states before block ``index`` complete, and drop older ones."""
        for stream in shapes:
            path = self._hidden_file(index, stream, ".part")
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self._hidden_file(index, stream))
        kept = {self._hidden_file(index, stream) for stream in shapes}
        for path in self._folder.glob(f"hidden-*{_suffix()}"):
            if path not in kept:
                path.unlink()

    def drop_hidden(self) -> None:
        """Remove hidden states, which are only needed to go on."""
        for path in self._folder.glob(f"hidden-*{_suffix()}*"):
            path.unlink()

    def resume(self, shapes: dict[str, HiddenShape]) -> tuple[int, dict[str, Tensor]]:
        """Find the next block to prune and the hidden states it reads, if they exist."""
        done = 0
        while self.block_file(done).is_file():
            done += 1
        for index in range(done, -1, -1):
            paths = {stream: self._hidden_file(index, stream) for stream in shapes}
            if all(
                path.is_file() and path.stat().st_size == shapes[stream].bytes
                for stream, path in paths.items()
            ):
                return index, {s: _mapped(path, shapes[s]) for s, path in paths.items()}
        return 0, {}

    def _hidden_file(self, index: int, stream: str, ending: str = "") -> Path:
        return self._folder / f"hidden-{index:04d}-{stream}{_suffix()}{ending}"


def _suffix() -> str:
    rank, size = world()
    return f"-{rank}of{size}.bin" if size > 1 else ".bin"


def _mapped(path: Path, shape: HiddenShape) -> Tensor:
    count = shape.bytes // shape.dtype.itemsize
    return torch.from_file(str(path), shared=True, size=count, dtype=shape.dtype).view(shape.shape)
