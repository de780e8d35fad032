"""How many zeros each matrix gets, decided once before the first is pruned."""

from pathlib import Path

from edgeprune.data.streams import Stream
from edgeprune.engine.runner import Walk
from edgeprune.engine.sensitivity.measures import fitness, sensitivity
from edgeprune.engine.sensitivity.survey import Survey
from edgeprune.models.blocks import Matrix, weight_matrices
from edgeprune.models.loading import stored_names
from edgeprune.plan.allocation import evolve
from edgeprune.plan.allocation.atp import ramp
from edgeprune.plan.allocation.exact import exact, limit
from edgeprune.plan.allocation.named import by_name
from edgeprune.plan.allocation.owl import owl
from edgeprune.plan.allocation.rank import by_rank
from edgeprune.pruning.matrix import Pruning
from edgeprune.support import distributed
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Progress


def allocate(
    walk: Walk,
    streams: dict[str, Stream],
    pruning: Pruning,
    stored: frozenset[str],
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    """Zeros of each matrix of the blocks; together exactly what the sparsity asks for.

    Args:
        walk: the dense model.
        streams: all sequences of all processes.
        pruning: how it will be pruned. N:M patterns fix every matrix and are given uniform numbers.
        stored: names of the checkpoint's tensors.
        folder: keeps the result as ``allocation.json``, which a run that goes on reuses.
        progress: told of passes over the dense model.

    Returns:
        By name in the checkpoint.

    Raises:
        UsageError: the user's own map makes no sense for this model.
    """
    path = folder / "allocation.json"
    kept: dict[str, int] = read_json(path) or {}
    if distributed.agree(len(kept)):
        return kept
    zeros = _allocate(walk, _blocks(walk, stored), streams, pruning, progress)
    if distributed.world()[0] == 0:
        write_json(path, zeros)
    return zeros


def _allocate(
    walk: Walk,
    blocks: list[dict[str, Matrix]],
    streams: dict[str, Stream],
    pruning: Pruning,
    progress: Progress,
) -> dict[str, int]:
    sizes = {
        name: matrix.read(block).numel()
        for block, matrices in zip(walk.blocks, blocks, strict=True)
        for name, matrix in matrices.items()
    }
    sparsity, spread = pruning.sparsity, pruning.allocation.spread
    uniform = exact(dict.fromkeys(sizes, sparsity), sizes, sparsity)

    def survey() -> Survey:
        return Survey(walk, blocks, streams, pruning, progress)

    def of_blocks(values: list[float]) -> dict[str, float]:
        pairs = zip(values, blocks, strict=True)
        return {name: value for value, matrices in pairs for name in matrices}

    match "uniform" if pruning.pattern.group else pruning.allocation.kind:
        case "uniform":
            return uniform
        case "atp":
            raw = of_blocks(ramp(len(blocks), sparsity, spread))
        case "owl":
            raw = of_blocks(owl(survey().outliers(), sparsity, spread))
        case "rank":
            found = sensitivity(*survey().trials(), uniform, progress)
            raw = by_rank(found, sparsity, spread)
        case "map":
            raw = by_name(sizes, pruning.allocation.shares, sparsity)
        case "evolve":
            limits = {name: limit(size, sparsity) for name, size in sizes.items()}
            distance = fitness(*survey().trials())
            with progress.stage("evolve allocation", evolve.GENERATIONS) as stage:
                return evolve.search(uniform, sizes, limits, distance, stage.advance)
        case kind:
            raise ValueError(f"no allocation '{kind}'")
    return exact(raw, sizes, sparsity)


def _blocks(walk: Walk, stored: frozenset[str]) -> list[dict[str, Matrix]]:
    """Matrices of each block by their names in the checkpoint."""
    blocks = []
    for index, block in enumerate(walk.blocks):
        matrices = weight_matrices(block)
        prefix = f"{walk.prefix}.{index}."
        names = stored_names(walk.model, prefix, block, matrices, stored)
        blocks.append({names[name]: matrix for name, matrix in matrices.items()})
    return blocks
