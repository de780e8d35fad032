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
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.quantization.scales import one_by_one
from edgeprune.support.progress import Progress

_EVERY, _ALL_ROWS = 4, 64
_TINY = 1e-30
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

    To second order, with outputs and inputs taken as independent and outputs as uncorrelated:
    ``½ Σ_i γ_i E_i``, the error that storing leaves in each output, weighted by what an error there
    costs (Kronecker-factored curvature, Martens and Grosse, 1503.05671).

    The error is what GPTQ leaves, without running it: when it rounds column ``j``, what later
    columns can't make up for is ``(w - q)² / U_jj²``, where ``U`` is the upper Cholesky factor of
    ``H⁻¹`` (Frantar et al., 2210.17323). ``E_i`` sums that with ``q`` nearest to ``w``, and 0 for
    pruned weights, chosen where it is least. docs/measured/choice.md holds it against GPTQ.

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
    power = [share * seen.second_moment.sum() for share, seen, _ in of_streams]
    total = torch.stack(power).sum().clamp_min(_TINY)  # an expert that no token reached has none
    outer = [own / total * of for own, (_, _, of) in zip(power, of_streams, strict=True)]
    cost = torch.stack(outer).sum(0)
    order = cost.argsort(descending=True)
    first = order[: max(_ALL_ROWS, len(order) // 8)]
    some = order[len(first) :: _EVERY]
    weight = torch.ones_like(cost)
    weight[some] = (len(order) - len(first)) / max(1, len(some))
    rows = torch.cat([first, some])
    gram = Gram(torch.stack([share * seen.gram.matrix for share, seen, _ in of_streams]).sum(0))
    errors = stored_errors(dense[rows], storages, gram)
    costs = (cost * weight)[rows]
    return {storage: 0.5 * (error * costs).sum().item() for storage, error in errors.items()}


def stored_errors(
    dense: Tensor, storages: Mapping[str, TensorPlan], gram: Gram
) -> dict[str, Tensor]:
    """Estimate the squared error that each storage leaves in each output.

    Args:
        dense: (out, in) float32, some rows of a matrix.
        storages: with grids, and zeros of the whole matrix.
        gram: Gram matrix of the inputs.

    Returns:
        By storage, (out,).
    """
    left = 1 / gram.inverse_factor.diagonal().square()
    return {
        storage: (nearest(dense, row, left) - dense).square() @ left
        for storage, row in storages.items()
    }


def nearest(dense: Tensor, row: TensorPlan, importance: Tensor) -> Tensor:
    """Prune the weights of a matrix, or of some of its rows, that count least; round the others.

    Args:
        dense: (out, in) float32.
        row: with the grid, and the zeros of the whole matrix.
        importance: (in,), of a squared error.
    """
    grid = row.storage.grid
    assert grid
    each = importance[:, None].expand(dense.T.shape)
    if not row.zeros:
        return one_by_one(dense, each, grid)[0]
    budget = Budget(row.pattern, round(row.zeros / row.size * dense.numel()))
    keep = budget.keep(dense.square() * importance)
    return one_by_one(dense * keep, each * keep.T, grid)[0]
