"""Statistics of a block's inputs and gradients of its matrices."""

import contextlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from edgeprune.engine.parallel import add_up
from edgeprune.methods.statistics import Accumulator, InputStatistics
from edgeprune.models.layers import Matrix, watch


class _Seen(Exception):
    """All inputs of the block have been seen."""


class Gatherer:
    """Watches one block while one stream runs through it.

    Matrices that are given the very same tensor (q, k, v; gate, up) share one accumulator, and
    later one `InputStatistics` with one set of factorisations.

    Args:
        block: the block.
        matrices: its matrices.
        gram: whether whole Gram matrices are wanted.
    """

    def __init__(self, block: nn.Module, matrices: dict[str, Matrix], gram: bool):
        self._gram = gram
        self._sums: dict[str, Accumulator] = {}
        self._reads: dict[str, str] = {}  # matrix -> the first that reads the same input
        self._batch: list[tuple[str, Tensor]] = []
        self._last = ""
        self._first_batch = True
        self._weights = torch.empty(0)
        self._handles = watch(block, matrices, self._see)

    def __enter__(self) -> "Gatherer":
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
        with contextlib.suppress(_Seen):
            call()
        self._batch.clear()
        self._first_batch = False

    def statistics(self) -> dict[str, InputStatistics]:
        """Of every matrix that was given anything, over all processes."""
        for accumulator in self._sums.values():
            add_up(accumulator.sums())
        known = {name: accumulator.statistics() for name, accumulator in self._sums.items()}
        return {name: known[first] for name, first in self._reads.items()}

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
        weights = self._weights if tokens is None else self._weights[tokens]
        self._sums[name].add(rows, weights)


def block_gradients(
    block: nn.Module, matrices: dict[str, Matrix], outputs: Iterable[Tensor], samples: int
) -> dict[str, Tensor]:
    """Mean squared gradient of ``‖block(x)‖₂`` over single samples, per token (Wanda++).

    Args:
        block: with parameters that take gradients.
        matrices: its matrices.
        outputs: (1, length, width) each, computed lazily so that one graph lives at a time.
        samples: how many outputs there are, over all processes.

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
