"""Sensitivities of the dense model's matrices, measured on a few sequences before pruning."""

from collections.abc import Iterator

import torch
from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.dense import dense_moments
from edgeprune.engine.sensitivity.trials import CandidateTrials
from edgeprune.engine.token_weights import stream_weights
from edgeprune.models.blocks import WeightView
from edgeprune.planning.allocation.owl import OUTLIER
from edgeprune.pruning.fusion import FusedStatistics
from edgeprune.pruning.matrix import Pruning
from edgeprune.pruning.methods import wanda
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.support.distributed import world
from edgeprune.support.progress import Progress

# Sequences of each stream behind the dense statistics: second moments settle early.
_SEEN = 16
# Sequences of each stream that candidates are tried on: each trial is a pass of the whole model.
_TRIED = 4


class Survey:
    """Measures on the dense model what allocations need.

    Like pruning itself, it uses the streams that the fusion mode uses. In a process group
    every process runs its share of the sequences, and all get the same figures.

    Args:
        runner: the dense model's runner; its own streams are not used.
        blocks: matrices of each block by full name.
        streams: all sequences of all processes.
        pruning: how the model will be pruned.
        progress: receives progress of every pass.
    """

    def __init__(
        self,
        runner: BlockRunner,
        blocks: list[dict[str, WeightView]],
        streams: dict[str, Stream],
        pruning: Pruning,
        progress: Progress,
    ):
        self._shares = pruning.fusion.shares
        self._blocks = blocks
        self._pruning = pruning
        self._progress = progress
        used = {name: streams[name] for name in self._shares}
        self._few = _walk_first(_TRIED, runner, used)
        self._seen = self._statistics(_walk_first(_SEEN, runner, used))

    def outliers(self) -> list[float]:
        """Measure the share of each block's scores ``|W| ‖x‖`` above `OUTLIER` times their mean.

        For two streams it is their mean, weighted as in fusion.
        """
        return [
            sum(share * self._outliers(index, name) for name, share in self._shares.items())
            for index in range(len(self._blocks))
        ]

    def trials(self) -> tuple[CandidateTrials, dict[str, float]]:
        """Make `CandidateTrials`, and return them with the weight of each stream."""
        inputs = {
            name: FusedStatistics({s: of[name] for s, of in seen.items()}, self._pruning.fusion)
            for seen, matrices in zip(self._seen, self._blocks, strict=True)
            for name in matrices
        }
        return CandidateTrials(self._few, self._blocks, inputs), self._shares

    def _statistics(self, runner: BlockRunner) -> list[dict[str, dict[str, InputStatistics]]]:
        """Gather the dense model's input statistics, by block, stream and matrix."""
        weights = stream_weights(runner, self._pruning)
        seen = []
        with self._progress.stage("survey the dense model", len(self._blocks)) as stage:
            for of_block in dense_moments(runner, self._blocks, weights):
                seen.append(of_block)
                stage.advance()
        return seen

    @torch.no_grad()
    def _outliers(self, index: int, stream: str) -> float:
        """Measure one block in one stream; scores are computed twice rather than kept."""
        source, device = self._few.blocks[index], self._few.device
        seen = self._seen[index][stream]

        def scores() -> Iterator[Tensor]:
            return (
                wanda.score(matrix.read(source).to(device).float(), seen[name]).sqrt()
                for name, matrix in self._blocks[index].items()
            )

        size = sum(matrix.read(source).numel() for matrix in self._blocks[index].values())
        mean = sum(part.sum(dtype=torch.float64).item() for part in scores()) / size
        return sum(int((part > OUTLIER * mean).sum()) for part in scores()) / size


def _walk_first(count: int, runner: BlockRunner, streams: dict[str, Stream]) -> BlockRunner:
    """Make a runner of the same model over the first sequences, at least one per process."""
    count = max(count, world()[1])
    first = {name: Stream(s.tokens[:count], s.answers[:count]) for name, s in streams.items()}
    return BlockRunner(runner.model, first, runner.device)
