"""Sensitivities of the dense model, measured when an allocation asks for them."""

from contextlib import AbstractContextManager
from functools import cached_property

from edgeprune.data.streams import Stream
from edgeprune.engine.device import pick_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.measures import fitness, sensitivity
from edgeprune.engine.sensitivity.survey import Survey
from edgeprune.models.blocks import WeightView, weight_matrices
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_model, stored_names
from edgeprune.planning.allocation import Fitness, Zeros
from edgeprune.pruning.matrix import Pruning
from edgeprune.support.progress import Progress, Stage


class DenseModel:
    """Implements `edgeprune.planning.allocation.Sensitivity`.

    In a process group every process runs its share of the sequences, and all get the same figures.

    Args:
        checkpoint: the dense model.
        streams: all sequences of all processes.
        pruning: how the model will be pruned.
        progress: receives progress of every pass.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        sizes: number of weights of each matrix, by its name in the checkpoint, in model order.
        blocks: names of the matrices of each block.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        streams: dict[str, Stream],
        pruning: Pruning,
        progress: Progress,
        device: str = "auto",
    ):
        stored = frozenset(checkpoint.weights().names())
        self._runner = BlockRunner(load_model(checkpoint), streams, pick_device(device))
        self._matrices = matrices_by_block(self._runner, stored)
        self._streams, self._pruning, self._progress = streams, pruning, progress
        self.blocks = [list(matrices) for matrices in self._matrices]
        self.sizes = {
            name: matrix.read(block).numel()
            for block, matrices in zip(self._runner.blocks, self._matrices, strict=True)
            for name, matrix in matrices.items()
        }

    def outliers(self) -> list[float]:
        """Measure the share of each block's scores that are outliers."""
        return self._survey.outliers()

    def losses(self, zeros: Zeros) -> dict[str, float]:
        """Measure how much the loss rises when each matrix alone loses so many weights."""
        return sensitivity(*self._survey.trials(), zeros, self._progress)

    def fitness(self) -> Fitness:
        """Make a function that rates whole candidates; lower is better."""
        return fitness(*self._survey.trials())

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """Begin a progress stage of so many steps."""
        return self._progress.stage(name, total)

    @cached_property
    def _survey(self) -> Survey:
        return Survey(self._runner, self._matrices, self._streams, self._pruning, self._progress)


def matrices_by_block(runner: BlockRunner, stored: frozenset[str]) -> list[dict[str, WeightView]]:
    """Find the matrices of each block by their names in the checkpoint."""
    blocks = []
    for index, block in enumerate(runner.blocks):
        matrices = weight_matrices(block)
        prefix = f"{runner.prefix}.{index}."
        names = stored_names(runner.model, prefix, block, matrices, stored)
        blocks.append({names[name]: matrix for name, matrix in matrices.items()})
    return blocks
