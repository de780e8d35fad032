"""Statistics of the dense model, gathered once, for pruning at many sparsities."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from edgeprune.engine.trials import first_states
from edgeprune.engine.walk import Walk
from edgeprune.files import atomic_path
from edgeprune.methods.statistics import InputStatistics
from edgeprune.models.layers import weight_matrices
from edgeprune.progress import Progress
from edgeprune.sparsity.weights import save_tensors


class DenseStatistics:
    """Second moments of every matrix' input, kept on disk and read block by block."""

    def __init__(self, path: Path):
        self._path = path

    def read(self, index: int, streams: list[str]) -> dict[str, dict[str, InputStatistics]]:
        """Of one block, by stream and matrix."""
        seen: dict[str, dict[str, InputStatistics]] = {stream: {} for stream in streams}
        with safe_open(self._path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                number, stream, name = key.split(":", 2)
                if int(number) == index:
                    seen[stream][name] = InputStatistics(file.get_tensor(key), 0)
        return seen


@torch.no_grad()
def gather_dense(
    walk: Walk, weights: dict[str, Tensor], path: Path, progress: Progress
) -> DenseStatistics:
    """Run both streams through the dense model once.

    Args:
        walk: the dense model.
        weights: of each stream's tokens, (samples, length).
        path: where the result is kept; reused if it is there.
        progress: told of every block.
    """
    if path.is_file():
        return DenseStatistics(path)
    hidden, moments = first_states(walk), {}
    with progress.stage("dense statistics", len(walk.blocks)) as stage:
        for index in range(len(walk.blocks)):
            block = walk.load(index)
            matrices = weight_matrices(block)
            for stream, states in hidden.items():
                found = walk.statistics(index, block, matrices, states, weights[stream], gram=False)
                for name, statistics in found.items():
                    moments[f"{index}:{stream}:{name}"] = statistics.second_moment.cpu().clone()
                walk.advance(index, block, states, states)
            stage.advance()
    with atomic_path(path) as temporary:
        save_tensors(temporary, moments)
    return DenseStatistics(path)
