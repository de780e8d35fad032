"""Statistics of the dense model, gathered once, for pruning at many sparsities."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.trials import first_states
from edgeprune.formats.weights import save_tensors
from edgeprune.models.blocks import WeightView, weight_matrices
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.support.files import atomic_path
from edgeprune.support.progress import Progress


class DenseStatistics:
    """Second moments of every matrix' input, kept on disk and read block by block."""

    def __init__(self, path: Path):
        self._path = path

    def read(self, index: int, streams: list[str]) -> dict[str, dict[str, InputStatistics]]:
        """Read one block's statistics, by stream and matrix."""
        seen: dict[str, dict[str, InputStatistics]] = {stream: {} for stream in streams}
        with safe_open(self._path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                number, stream, name = key.split(":", 2)
                if int(number) == index:
                    seen[stream][name] = InputStatistics(file.get_tensor(key), 0)
        return seen


@torch.no_grad()
def dense_moments(
    runner: BlockRunner, blocks: list[dict[str, WeightView]], weights: dict[str, Tensor]
) -> Iterator[dict[str, dict[str, InputStatistics]]]:
    """Compute second moments of each stream's input to each matrix, block by block.

    Args:
        runner: the dense model's runner.
        blocks: matrices of each block, by any name.
        weights: weights of each stream's tokens, (samples, length).

    Yields:
        The moments by stream and matrix.
    """
    hidden = first_states(runner)
    for index, matrices in enumerate(blocks):
        block = runner.load(index)
        yield {
            name: runner.statistics(index, block, matrices, states, weights[name], gram=False)
            for name, states in hidden.items()
        }
        for states in hidden.values():
            runner.advance(index, block, states, states)


def gather_dense(
    runner: BlockRunner, weights: dict[str, Tensor], path: Path, progress: Progress
) -> DenseStatistics:
    """Run both streams through the dense model once.

    Args:
        runner: the dense model's runner.
        weights: weights of each stream's tokens, (samples, length).
        path: file for the result; reused if it exists.
        progress: receives progress by blocks.
    """
    if path.is_file():
        return DenseStatistics(path)
    blocks = [weight_matrices(block) for block in runner.blocks]
    moments = {}
    with progress.stage("gather dense statistics", len(blocks)) as stage:
        for index, seen in enumerate(dense_moments(runner, blocks, weights)):
            for stream, found in seen.items():
                for name, statistics in found.items():
                    moments[f"{index}:{stream}:{name}"] = statistics.second_moment.cpu().clone()
            stage.advance()
    with atomic_path(path) as temporary:
        save_tensors(temporary, moments)
    return DenseStatistics(path)
