"""How much an error in each output of each matrix would cost, from one backward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.data.streams import Stream
from edgeprune.engine.device import on_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.models.blocks import WeightView
from edgeprune.support.distributed import add_up
from edgeprune.support.progress import Progress, Stage

# By stream, block and matrix: curvature of each output, (out,).
Curvature = dict[str, list[dict[str, Tensor]]]


def output_curvature(
    runner: BlockRunner,
    blocks: list[dict[str, WeightView]],
    streams: Mapping[str, Stream],
    progress: Progress,
) -> Curvature:
    """Sum the squared gradients of the loss in every output of every matrix.

    The loss is that of tokens drawn from the model's own predictions, where answer tokens are, or
    everywhere if the stream has none. Its squared gradients are the model's Fisher information,
    which is how the Kullback-Leibler divergence from it curves (not the "empirical" one of the
    text's own tokens, which is large where the text is hard; Kunstner et al., 1905.12558).

    Args:
        runner: the dense model's runner; the model runs as a whole.
        blocks: matrices of each block, by any name.
        streams: a few sequences of each stream.
        progress: receives progress by sequences.
    """
    total = sum(len(stream.tokens) for stream in streams.values())
    with (
        on_device(runner.model, runner.device),
        progress.stage("compute output gradients", total) as stage,
    ):
        return {
            name: _squared_gradients(runner, blocks, stream, stage)
            for name, stream in streams.items()
        }


def _squared_gradients(
    runner: BlockRunner, blocks: list[dict[str, WeightView]], stream: Stream, stage: Stage
) -> list[dict[str, Tensor]]:
    model, device = runner.model, runner.device
    sums = [
        {name: torch.zeros(len(m.read(block)), device=device) for name, m in matrices.items()}
        for block, matrices in zip(runner.blocks, blocks, strict=True)
    ]
    drawn, counted = torch.Generator(device).manual_seed(0), torch.zeros((), device=device)

    def add(index: int, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, outputs: tuple[Tensor, ...]) -> None:
            squares = outputs[0].float().square().flatten(0, -2).sum(dim=0)
            rows = blocks[index][name].rows
            sums[index][name] += squares if rows is None else squares[slice(*rows)]

        return hook

    handles = [
        block.get_submodule(matrix.module).register_full_backward_hook(add(index, name))
        for index, (block, matrices) in enumerate(zip(runner.blocks, blocks, strict=True))
        for name, matrix in matrices.items()
        if matrix.expert is None
    ]
    with _through_activations(model, handles):
        for ids, answers in zip(stream.tokens.split(1), stream.answers.split(1), strict=True):
            tokens, wanted = ids.to(device), answers[0, 1:].to(device)
            if not wanted.any():
                wanted = torch.ones_like(wanted)
            with torch.autocast(device.type, runner.dtype, enabled=runner.dtype != torch.float32):
                logits = model(input_ids=tokens, use_cache=False).logits[0, :-1][wanted].float()
            shares = logits.detach().softmax(-1)
            own = shares.multinomial(1, generator=drawn)[:, 0]
            nn.functional.cross_entropy(logits, own, reduction="sum").backward()
            counted += wanted.sum()
            stage.advance()
    add_up([counted, *(one for of_block in sums for one in of_block.values())])
    return [{name: one / counted for name, one in of_block.items()} for of_block in sums]


@contextmanager
def _through_activations(model: Any, handles: list[Any]) -> Iterator[None]:
    """Let gradients flow through activations alone: no weight keeps any."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embedded = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_(True)
    )
    try:
        yield
    finally:
        for handle in (*handles, embedded):
            handle.remove()
