"""Statistics of a block's inputs and gradients of its matrices."""

import contextlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from edgeprune.models.blocks import WeightView, watch
from edgeprune.pruning.statistics import Accumulator, InputStatistics
from edgeprune.support.distributed import add_up
from edgeprune.support.errors import InputError

# Tokens that an expert must see for statistics of its own: a few dozen rank its channels by noise.
EXPERT_FLOOR = 256


class _Seen(Exception):
    """Raised when all inputs of the block have been seen."""


class StatisticsHooks:
    """Statistics hooks on one block while one stream runs through it.

    Matrices that read the same tensor (q, k, v; gate, up) share one accumulator, and
    later one `InputStatistics` with one set of factorisations.

    Args:
        block: the block.
        matrices: the block's matrices.
        gram: whether to gather whole Gram matrices.
        as_routed: whether an expert gets only the tokens routed to it; otherwise it gets all
            tokens.
    """

    def __init__(
        self, block: nn.Module, matrices: dict[str, WeightView], gram: bool, as_routed: bool = True
    ):
        self._gram = gram
        self._matrices = matrices
        self._counts: dict[str, Tensor] = {}  # tokens routed to the expert of a matrix
        self._total = torch.zeros((), dtype=torch.int64)
        self._sums: dict[str, Accumulator] = {}
        self._reads: dict[str, str] = {}  # matrix -> the first that reads the same input
        self._batch: list[tuple[str, Tensor]] = []
        self._last = ""
        self._first_batch = True
        self._weights = torch.empty(0)
        self._handles = watch(block, matrices, self._see, as_routed)

    def __enter__(self) -> "StatisticsHooks":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._batch.clear()

    def run(self, call: Callable[[], object], weights: Tensor) -> None:
        """Run the block on a batch whose tokens have (batch, length) weights.

        The first batch shows which matrix comes last; later ones end there, since nothing reads
        the block's output.
        """
        self._weights = weights.flatten()
        self._total = self._total.to(weights.device) + self._weights.count_nonzero()
        with contextlib.suppress(_Seen):
            call()
        self._batch.clear()
        self._first_batch = False

    def statistics(self) -> dict[str, InputStatistics]:
        """Return the statistics of every matrix, summed over all processes.

        Raises:
            InputError: a matrix is never used.
        """
        if unused := [name for name in self._matrices if name not in self._reads]:
            raise InputError(
                f"The weight {unused[0]} received no calibration input: the model never uses it."
            )
        for accumulator in self._sums.values():
            add_up(accumulator.sums())
        known = {name: accumulator.statistics() for name, accumulator in self._sums.items()}
        return {name: known[first] for name, first in self._reads.items()}

    def starved(self) -> list[str]:
        """List matrices of experts that were routed too few tokens, over all processes.

        An expert's statistics come from the tokens routed to it, unless these are fewer than
        `EXPERT_FLOOR`, or than there are where even all are fewer. Such an expert must be run on
        all tokens instead. Tokens of weight 0 don't count.
        """
        if not self._counts:
            return []
        counts = torch.stack([*self._counts.values(), self._total])
        add_up([counts])
        *routed, total = counts.tolist()
        floor = min(EXPERT_FLOOR, total)
        few = {name for name, count in zip(self._counts, routed, strict=True) if count < floor}
        return [name for name, first in self._reads.items() if first in few]

    def _see(self, name: str, inputs: Tensor, tokens: Tensor | None) -> None:
        if self._first_batch:
            self._last = name
        if name not in self._reads:
            same = (first for first, seen in self._batch if seen is inputs)
            self._reads[name] = next(same, name)
            self._batch.append((name, inputs))
        if self._reads[name] == name:
            self._add(name, inputs, tokens)
        if name == self._last and not self._first_batch:
            raise _Seen

    def _add(self, name: str, inputs: Tensor, tokens: Tensor | None) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        if name not in self._sums:
            self._sums[name] = Accumulator(rows.shape[1], rows.device, self._gram)
        weights = self._weights
        if tokens is not None:
            weights = weights[tokens]
            self._counts[name] = self._counts.get(name, 0) + weights.count_nonzero()
        elif len(rows) != len(weights):
            raise InputError(
                f"The model routes {len(rows)} of {len(weights)} tokens to its weight {name}, "
                "and edgeprune cannot tell which tokens.",
                "edgeprune supports experts that are stacked as in Mixtral.",
            )
        self._sums[name].add(rows, weights)


def block_gradients(
    block: nn.Module, matrices: dict[str, WeightView], outputs: Iterable[Tensor], samples: int
) -> dict[str, Tensor]:
    """Compute the mean squared gradient of ``‖block(x)‖₂`` over samples, per token (Wanda++).

    Args:
        block: a block whose parameters take gradients.
        matrices: the block's matrices.
        outputs: block outputs, (1, length, width) each, computed lazily so that one graph lives at
            a time.
        samples: number of outputs over all processes.

    Returns:
        (out, in) float32 for every matrix.
    """
    sums = {name: torch.zeros_like(m.read(block), dtype=torch.float32) for name, m in
            matrices.items()}  # fmt: skip
    for output in outputs:
        block.zero_grad(set_to_none=True)
        output.float().norm().backward()
        for name, matrix in matrices.items():
            gradient = block.get_parameter(matrix.parameter).grad
            if gradient is not None:
                sums[name] += matrix.view(gradient).float().square() / output.shape[1]
    block.zero_grad(set_to_none=True)
    add_up(list(sums.values()))
    return {name: total / samples for name, total in sums.items()}
