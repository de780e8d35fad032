"""How much each calibration token counts in the statistics."""

from typing import Any

import torch
from torch import Tensor

from edgeprune.calibration.streams import Stream

# The attention sink carries activations far above all others and would drown the statistics.
_SINK_POSITIONS = 1
# Tokens the dense model finds harder than this are "high perplexity" (arXiv 2501.14315).
SURPRISING = 2.5


def token_weights(
    stream: Stream, answer: float, surprising: float, model: torch.nn.Module
) -> Tensor:
    """Weight of every position: of its input, which is what predicts the next token.

    Args:
        stream: the tokens, and which of them are answers.
        answer: weight of positions that predict a token of an answer; other positions weigh 1.
        surprising: factor at positions whose next token has perplexity above 2.5 to the dense
            model; 1 skips the pass that finds them (low-perplexity tokens, arXiv 2501.14315).
        model: the dense model.

    Returns:
        (samples, length) float32; 0 where the attention sink sits.
    """
    weights = torch.ones(stream.tokens.shape)
    weights[:, :-1][stream.answers[:, 1:]] = answer
    if surprising != 1:
        weights[:, :-1][_perplexity(model, stream.tokens) > SURPRISING] *= surprising
    weights[:, :_SINK_POSITIONS] = 0
    return weights


@torch.no_grad()
def _perplexity(model: Any, tokens: Tensor) -> Tensor:
    """Perplexity of each token after the first, (samples, length - 1)."""
    device = next(model.parameters()).device
    parts = []
    for ids in tokens.split(1):
        logits = model(input_ids=ids.to(device), use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(device), reduction="none")
        parts.append(losses.exp().cpu())
    return torch.stack(parts)
