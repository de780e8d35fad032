"""The matrices of SmolLM2's blocks with the statistics of their inputs in the dense model."""

from collections.abc import Iterator

import click
from torch import Tensor

from edgeprune.data.loading import load_data
from edgeprune.engine.device import pick_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.trials import first_states
from edgeprune.engine.token_weights import stream_weights
from edgeprune.models import open_checkpoint
from edgeprune.models.blocks import weight_matrices
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.pruning.fusion import FusedStatistics, FusionRule
from edgeprune.pruning.matrix import Pruning


def layers(
    task: str, samples: int, every: int = 1
) -> Iterator[tuple[int, str, Tensor, FusedStatistics]]:
    """Walk through every n-th block.

    Args:
        task: the task stream; the general one is WikiText-2.
        samples: sequences of 512 tokens of each.
        every: n.

    Yields:
        The block's number, the matrix' name, its weights, (out, in) float32, and the statistics of
        both streams, mixed.
    """
    checkpoint = open_checkpoint("smollm2-135m")
    data = load_data(task, "wikitext2", 1, 512)
    streams = data.streams(load_tokenizer(checkpoint), samples, 512, 0)
    runner = BlockRunner(load_model(checkpoint), streams, pick_device("auto"))
    weights, hidden = stream_weights(runner, Pruning()), first_states(runner)
    for index in range(len(runner.blocks)):
        block = runner.load(index)
        if index % every == 0:
            matrices = weight_matrices(block)
            seen = {
                name: runner.statistics(index, block, matrices, states, weights[name], gram=True)
                for name, states in hidden.items()
            }
            for name, matrix in matrices.items():
                dense = matrix.read(runner.blocks[index]).detach().float()
                of_both = {stream: of[name] for stream, of in seen.items()}
                yield index, name, dense, FusedStatistics(of_both, FusionRule("mix"))
            click.echo(f"block {index}", err=True)
        for states in hidden.values():
            runner.advance(index, block, states, states)
