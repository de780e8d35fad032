"""What each storage of each matrix would lose, estimated on the dense model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.curvature import Curvature
from edgeprune.engine.sensitivity.trials import first_states
from edgeprune.models.blocks import WeightView
from edgeprune.planning.patterns import Budget
from edgeprune.planning.tensors import TensorPlan
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.quantization.scales import one_by_one
from edgeprune.support.progress import Progress

_EVERY, _ALL_ROWS = 4, 64
# By tensor and storage: nats a token.
Losses = dict[str, dict[str, float]]


def storage_losses(
    runner: BlockRunner,
    blocks: list[dict[str, WeightView]],
    rows: Mapping[str, Mapping[str, TensorPlan]],
    shares: Mapping[str, float],
    weights: Mapping[str, Tensor],
    curvature: Curvature,
    progress: Progress,
) -> Losses:
    """Estimate how far each storage of each matrix alone would move the model's predictions.

    To second order, with outputs and inputs taken as independent and outputs as uncorrelated,
    ``½ Σ_i γ_i (ΔW H ΔWᵀ)_ii``: the error that rounding makes in each output, weighted by what an
    error there costs (Kronecker-factored curvature, Martens and Grosse, 1503.05671). Weights are
    pruned by Wanda's scores and rounded to nearest; what better masks, GPTQ and training win back
    is about the same share of the error for every storage (docs/measured/choice.md).

    Args:
        runner: the dense model's runner.
        blocks: matrices of each block, by full name.
        rows: by matrix and storage, its grid and zeros.
        shares: weight of each stream.
        weights: weights of each stream's tokens, (samples, length).
        curvature: from `output_curvature`.
        progress: receives progress by blocks.

    Returns:
        Mean Kullback-Leibler divergence from the dense model, in nats a token.
    """
    hidden = {name: states for name, states in first_states(runner).items() if name in shares}
    losses: Losses = {}
    with progress.stage("estimate losses", len(blocks)) as stage, torch.no_grad():
        for index, matrices in enumerate(blocks):
            block = runner.load(index)
            seen = {
                name: runner.statistics(index, block, matrices, states, weights[name], gram=True)
                for name, states in hidden.items()
            }
            for name, matrix in matrices.items():
                dense = matrix.read(runner.blocks[index]).to(runner.device).float().contiguous()
                of_streams = [
                    (share, seen[stream][name], curvature[stream][index][name])
                    for stream, share in shares.items()
                ]
                losses[name] = _losses(dense, rows[name], of_streams)
            for states in hidden.values():
                runner.advance(index, block, states, states)
            stage.advance()
    return losses


def _losses(
    dense: Tensor,
    storages: Mapping[str, TensorPlan],
    of_streams: list[tuple[float, InputStatistics, Tensor]],
) -> dict[str, float]:
    """Estimate on some rows: those where an error costs most, and of the others every fourth."""
    cost = torch.stack([share * outer for share, _, outer in of_streams]).sum(0)
    order = cost.argsort(descending=True)
    first = order[: max(_ALL_ROWS, len(order) // 8)]
    some = order[len(first) :: _EVERY]
    weight = torch.ones_like(cost)
    weight[some] = (len(order) - len(first)) / max(1, len(some))
    rows = torch.cat([first, some])
    dense = dense[rows]
    moments = torch.stack([share * seen.second_moment for share, seen, _ in of_streams]).sum(0)

    def lost(row: TensorPlan) -> float:
        change = quickly_stored(dense, row, moments) - dense
        return sum(
            share * 0.5 * (((change @ seen.gram.matrix) * change).sum(1) * (outer * weight)[rows])
            .sum().item()
            for share, seen, outer in of_streams
        )  # fmt: skip

    return {storage: lost(row) for storage, row in storages.items()}


def quickly_stored(dense: Tensor, row: TensorPlan, moments: Tensor) -> Tensor:
    """Prune a matrix, or some rows of it, by Wanda's scores, and round to nearest.

    Args:
        dense: (out, in) float32.
        row: with the grid, and the zeros of the whole matrix.
        moments: (in,) second moments of the inputs.
    """
    grid = row.storage.grid
    assert grid
    importance = moments[:, None].expand(dense.T.shape)
    if not row.zeros:
        return one_by_one(dense, importance, grid)[0]
    budget = Budget(row.pattern, round(row.zeros / row.size * dense.numel()))
    keep = budget.keep(dense.abs() * moments.sqrt())  # arXiv 2306.11695
    return one_by_one(dense * keep, importance * keep.T, grid)[0]
