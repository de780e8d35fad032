"""Weights of the calibration tokens in the statistics."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine.device import on_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.pruning.matrix import Pruning

# Tokens the dense model finds harder than this are "high perplexity" (arXiv 2501.14315).
HIGH_PERPLEXITY = 2.5


def stream_weights(runner: BlockRunner, pruning: Pruning) -> dict[str, Tensor]:
    """Compute the `token_weights` of both streams, on the device if the model has to run."""
    runs = pruning.high_perplexity_weight != 1
    with on_device(runner.model, runner.device) if runs else contextlib.nullcontext():
        return {n: token_weights(s, pruning, runner.model) for n, s in runner.streams.items()}


def token_weights(stream: Stream, pruning: Pruning, model: Any) -> Tensor:
    """Compute the weight of every position's input, which predicts the next token.

    Positions that predict a token of an answer have weight ``answer_weight``, others 1; where the
    next
    token has perplexity above 2.5 in the dense model, ``high_perplexity_weight`` is a factor
    (low-perplexity tokens, arXiv 2501.14315); a factor of 1 skips the pass that finds them.

    Args:
        stream: the tokens, and which of them are answers.
        pruning: settings that hold the weights.
        model: the dense model; it runs on its present device.

    Returns:
        (samples, length) float32; 0 where the attention sink sits.
    """
    weights = torch.ones(stream.tokens.shape)
    weights[:, :-1][stream.answers[:, 1:]] = pruning.answer_weight
    if pruning.high_perplexity_weight != 1:
        weights[:, :-1][perplexity(model, stream.tokens) > HIGH_PERPLEXITY] *= (
            pruning.high_perplexity_weight
        )
    weights[:, : pruning.sink_positions] = 0
    return weights


@torch.no_grad()
def perplexity(model: Any, tokens: Tensor) -> Tensor:
    """Compute the perplexity of each token after the first, (samples, length - 1)."""
    device = next(model.parameters()).device
    parts = []
    for ids in tokens.split(1):
        logits = model(input_ids=ids.to(device), use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(device), reduction="none")
        parts.append(losses.exp().cpu())
    return torch.stack(parts)
