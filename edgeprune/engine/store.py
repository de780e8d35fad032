"""Finished blocks on disk, so that a killed run goes on from the last of them.

Order of writing per block: its weights and records, then the hidden states after it. A set of
hidden states on disk therefore means that every block before it is complete. Both are stored
exactly, so that a resumed run computes the same bits as one that was never stopped.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from edgeprune.files import atomic_path
from edgeprune.sparsity.weights import save_tensors


@dataclass(frozen=True)
class TensorRecord:
    """What pruning did to one weight matrix.

    Attributes:
        name: as in the checkpoint.
        shape: (out, in).
        nonzeros: weights left.
        exclusive_general: share of input channels that the general stream uses more.
        exclusive_task: share of input channels that the task stream uses more.
    """

    name: str
    shape: tuple[int, int]
    nonzeros: int
    exclusive_general: float
    exclusive_task: float

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.nonzeros / (self.shape[0] * self.shape[1])


class BlockStore:
    """The folder of one pruning run."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def block_file(self, index: int) -> Path:
        """Pruned weights of a block."""
        return self._folder / f"block-{index:04d}.safetensors"

    def complete(self, blocks: int) -> bool:
        """Whether every block of a finished run is still there and whole."""
        try:
            return all(self.records(index) is not None for index in range(blocks))
        except (SafetensorError, OSError, KeyError):
            return False

    def records(self, index: int) -> list[TensorRecord]:
        """What was done to a finished block's tensors."""
        with safe_open(self.block_file(index), framework="pt") as file:
            rows = json.loads(file.metadata()["records"])
        return [TensorRecord(**{**row, "shape": tuple(row["shape"])}) for row in rows]

    def save_block(
        self, index: int, tensors: dict[str, Tensor], records: list[TensorRecord]
    ) -> None:
        """Keep a pruned block."""
        metadata = {"records": json.dumps([asdict(record) for record in records])}
        with atomic_path(self.block_file(index)) as path:
            save_tensors(path, tensors, metadata)

    def save_hidden(self, index: int, hidden: dict[str, Tensor]) -> None:
        """Keep the streams' hidden states after block ``index``, and drop older ones."""
        target = self._hidden_file(index)
        with atomic_path(target) as path:
            save_tensors(path, hidden)
        self.drop_hidden(keep=target)

    def drop_hidden(self, keep: Path | None = None) -> None:
        """Remove hidden states, which are only needed to go on."""
        for path in self._folder.glob("hidden-*.safetensors"):
            if path != keep:
                path.unlink()

    def resume(self) -> tuple[int, dict[str, Tensor]]:
        """Index of the next block to prune and the hidden states it sees; (0, {}) to begin."""
        for path in sorted(self._folder.glob("hidden-*.safetensors"), reverse=True):
            index = int(path.stem.partition("-")[2])
            if all(self.block_file(i).is_file() for i in range(index + 1)):
                try:
                    return index + 1, load_file(path)
                except (SafetensorError, OSError):
                    continue
        return 0, {}

    def _hidden_file(self, index: int) -> Path:
        return self._folder / f"hidden-{index:04d}.safetensors"
