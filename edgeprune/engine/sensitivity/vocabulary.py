"""What storages of embedding and output head lose, measured on the dense model."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgeprune.data.streams import Stream
from edgeprune.engine.device import on_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.storages import Losses
from edgeprune.engine.sensitivity.trials import positions
from edgeprune.models.loading import embedding_names
from edgeprune.planning.grid import Grid
from edgeprune.quantization.scales import one_by_one
from edgeprune.support.progress import Progress, Stage

_FEW_BITS = 4
# What GPTQ and training leave of the loss of an embedding that is rounded to nearest, beside what
# they leave of blocks' losses. SmolLM2 on arc_easy after 30 steps of 2,048 tokens: with Q5_0 there,
# at 70.0 MB, 12.04 nats a question and perplexity 44.4 of WikiText-2; with Q4_0 and the bits in the
# blocks, at 70.9 MB, 11.79 and 42.9.
_LEFT = 0.35


def vocabulary_losses(
    runner: BlockRunner,
    streams: Mapping[str, Stream],
    stored: frozenset[str],
    grids: Mapping[str, Mapping[str, Grid]],
    shares: Mapping[str, float],
    progress: Progress,
) -> Losses:
    """Measure how far each storage of embedding and head alone moves the model's predictions.

    A row is looked up, or a logit made, for each token alone, and few are seen in calibration: what
    an error costs is measured by running the model with it. Storages of more than four bits follow
    from the finest that was run, by the squares of their own errors.

    Args:
        runner: the dense model's runner; the model runs as a whole.
        streams: a few sequences of each stream.
        stored: names of the checkpoint's tensors.
        grids: by tensor and storage, the grid to round to.
        shares: weight of each stream.
        progress: receives progress by storages.

    Returns:
        Mean Kullback-Leibler divergence from the dense model before answer tokens, in nats a token,
        as far as rounding by GPTQ and training would leave it.
    """
    model, device = runner.model, runner.device
    places = {name: positions(stream) for name, stream in streams.items()}

    @torch.no_grad()
    def predictions(name: str) -> Tensor:
        """Log probabilities at a stream's positions, (positions, vocabulary)."""
        found, (rows, columns) = [], places[name]
        for row, ids in enumerate(streams[name].tokens.split(1)):
            if len(here := columns[rows == row]):
                with torch.autocast(device.type, runner.dtype, runner.dtype != torch.float32):
                    logits = model(input_ids=ids.to(device), use_cache=False).logits[0, here]
                found.append(logits.float().log_softmax(-1))
        return torch.cat(found)

    def moved_by() -> float:
        return sum(
            share * _divergence(dense[stream], predictions(stream))
            for stream, share in shares.items()
        )

    losses: Losses = {}
    total = 1 + sum(len(_run(of)) for of in grids.values())
    with on_device(model, device), progress.stage("measure embeddings", total) as stage:
        dense = {name: predictions(name) for name in shares}
        stage.advance()
        for own, name in embedding_names(model, stored).items():
            if of_tensor := grids.get(name):
                parameter = model.get_parameter(own)
                losses[name] = _losses(parameter, of_tensor, moved_by, stage)
    return losses


def _losses(
    parameter: nn.Parameter, grids: Mapping[str, Grid], moved_by: Callable[[], float], stage: Stage
) -> dict[str, float]:
    """Measure one tensor's storages, or derive them from the finest that was measured."""
    kept, errors, found = parameter.data, dict[str, float](), dict[str, float]()
    alike = torch.ones(1, 1, device=kept.device).expand(*kept.shape[::-1])
    for storage, grid in grids.items():
        rounded = one_by_one(kept.float(), alike, grid)[0]
        errors[storage] = (rounded - kept).square().sum().item()
        if storage in _run(grids):
            parameter.data = rounded.to(kept.dtype)
            found[storage] = _LEFT * moved_by()
            stage.advance()
    parameter.data = kept
    finest = min(found, key=lambda storage: errors[storage])
    return {
        storage: found.get(storage, found[finest] * error / max(errors[finest], 1e-30))
        for storage, error in errors.items()
    }


def _run(grids: Mapping[str, Grid]) -> set[str]:
    """Choose the storages that the model is run with."""
    few = {storage for storage, grid in grids.items() if grid.bits <= _FEW_BITS}
    return few or set(grids)


def _divergence(dense: Tensor, other: Tensor) -> float:
    return (dense.exp() * (dense - other)).sum(-1).mean().item()
