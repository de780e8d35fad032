"""Candidate evaluation: the dense model with some matrices pruned, on a few sequences."""

import copy

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.data.streams import Stream
from edgeprune.engine.capture import head_logits
from edgeprune.engine.runner import BlockRunner
from edgeprune.models.blocks import WeightView
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.pruning.fusion import FusedStatistics
from edgeprune.pruning.matrix import scores
from edgeprune.pruning.methods import METHODS
from edgeprune.support.distributed import add_up, world

# Logits are looked at in so many places of each stream: enough to tell candidates apart, few
# enough that even a large vocabulary stays small in memory.
_POSITIONS = 256

Zeros = dict[str, int]
States = dict[str, Tensor]


class CandidateTrials:
    """Runs candidates side by side, so that each block is loaded once for all of them.

    A candidate says how many zeros a matrix gets; matrices that it does not name stay dense. Which
    weights go is decided by fused Wanda scores on dense statistics, so that nothing is kept of a
    candidate but its hidden states.

    Args:
        runner: the dense model's runner on a few sequences.
        blocks: matrices of each block by full name.
        inputs: dense statistics of each matrix by full name.

    Attributes:
        runner: the runner, as given.
        blocks: the matrices, as given.
    """

    def __init__(
        self,
        runner: BlockRunner,
        blocks: list[dict[str, WeightView]],
        inputs: dict[str, FusedStatistics],
    ):
        self.runner = runner
        self.blocks = blocks
        self._inputs = inputs
        self._head = copy.deepcopy(runner.model.get_output_embeddings()).to(
            runner.device, runner.dtype
        )
        self._asked = {name: positions(stream) for name, stream in runner.streams.items()}

    def run(self, candidates: list[Zeros], states: list[States], start: int = 0) -> None:
        """Run each candidate's hidden states, in place, from block ``start`` to the end."""
        for index in range(start, len(self.blocks)):
            block = self.runner.load(index)
            standing: Zeros = {}
            for candidate, hidden in zip(candidates, states, strict=True):
                self._prune(index, block, standing, candidate)
                for part in hidden.values():
                    self.runner.advance(index, block, part, part)

    @torch.no_grad()
    def _prune(self, index: int, block: torch.nn.Module, standing: Zeros, wanted: Zeros) -> None:
        """Prune a block's matrices to the wanted zeros where they differ from the present ones."""
        source = self.runner.blocks[index]
        for name, matrix in self.blocks[index].items():
            zeros = wanted.get(name, 0)
            if standing.get(name, 0) == zeros:
                continue
            weight = matrix.read(source).to(self.runner.device).float().contiguous()
            keep = Budget(UNSTRUCTURED, zeros).keep(
                scores(weight, self._inputs[name], METHODS["wanda"])
            )
            matrix.write(block, torch.where(keep, weight, 0))
            standing[name] = zeros

    def loss(self, stream: str, hidden: Tensor) -> float:
        """Compute the mean cross entropy of the stream's answer tokens, over all processes."""
        logits, (rows, columns) = self._logits(stream, hidden)
        following = self.runner.streams[stream].tokens[rows, columns + 1].to(logits.device)
        return _mean(functional.cross_entropy(logits, following, reduction="none"))

    def log_probabilities(self, stream: str, hidden: Tensor) -> Tensor:
        """Compute log probabilities at positions before answer tokens, (positions, vocabulary)."""
        return self._logits(stream, hidden)[0].log_softmax(-1)

    def divergence(self, stream: str, hidden: Tensor, dense: Tensor) -> float:
        """Compute the mean ``KL(dense ‖ candidate)`` before answer tokens, over all processes.

        Args:
            stream: name of the stream.
            hidden: the candidate's last hidden states of the stream's first sequences.
            dense: `log_probabilities` of the dense model on all of them.
        """
        candidate = self.log_probabilities(stream, hidden)
        dense = dense[: len(candidate)]  # positions are ordered by sequence
        return _mean((dense.exp() * (dense - candidate)).sum(-1))

    def _logits(self, stream: str, hidden: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute logits, float32, and their places: sequences and positions of the stream."""
        runner = self.runner
        rows, columns = self._asked[stream]
        here = rows < len(hidden)
        rows, columns = rows[here], columns[here]

        def head(inputs: Tensor) -> Tensor:
            return self._head(inputs[None, rows, columns].to(runner.device, runner.dtype)).float()

        tokens = runner.streams[stream].tokens[: len(hidden)]
        hidden = hidden.to(runner.model.get_output_embeddings().weight.dtype)
        return head_logits(runner.model, runner.blocks, tokens, hidden, head)[0], (rows, columns)


def first_states(runner: BlockRunner) -> States:
    """Compute the first block's input for each stream."""
    states = {name: torch.empty(s.shape, dtype=s.dtype) for name, s in runner.shapes.items()}
    for name, into in states.items():
        runner.embed(name, into)
    return states


def positions(stream: Stream) -> tuple[Tensor, Tensor]:
    """Choose evenly spaced positions before answer tokens, or before any token without answers."""
    answers = stream.answers[:, 1:]
    rows, columns = (answers if answers.any() else torch.ones_like(answers)).nonzero(as_tuple=True)
    wanted = min(len(rows), max(1, _POSITIONS // world()[1]))
    chosen = torch.arange(wanted) * len(rows) // max(1, wanted)
    return rows[chosen], columns[chosen]


def _mean(values: Tensor) -> float:
    """Average values over all processes."""
    sums = torch.stack([values.double().sum(), values.new_tensor(len(values)).double()])
    add_up([sums])
    return (sums[0] / sums[1].clamp_min(1)).item()
