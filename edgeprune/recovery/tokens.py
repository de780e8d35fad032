"""The tokens to learn from, and their weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine.token_weights import perplexity
from edgeprune.recovery.batches import Sample
from edgeprune.support.errors import InputError


def token_weights(
    streams: dict[str, Stream], answers: bool, answer_weight: float
) -> dict[str, Tensor]:
    """Compute the loss weight of predicting each token but the first, by stream.

    Args:
        streams: ``general``, ``task``, and ``chat`` if there are conversations, of which the
            assistant's turns count.
        answers: whether only the task's answers are learnt, as `Training.answers`.
        answer_weight: weight of answer tokens, if all tokens are learnt; others have weight 1.

    Returns:
        (sequences, length - 1) float32 each.
    """
    weights = {name: torch.ones(stream.tokens.shape)[:, 1:] for name, stream in streams.items()}
    if "chat" in streams:
        weights["chat"] = streams["chat"].answers[:, 1:].float()
    wanted = streams["task"].answers[:, 1:]
    if answers:
        weights["task"] = wanted.float()
    else:
        weights["task"][wanted] = answer_weight
    return weights


def low_perplexity(teacher: Any, limit: float) -> Callable[[Tensor], Tensor]:
    """Select tokens of low perplexity in the dense model (arXiv 2501.14315).

    Args:
        teacher: the dense model.
        limit: the highest perplexity of a token that is learnt.

    Returns:
        A function from a sequence, (length,), to (length - 1,) booleans, for every token but the
        first.
    """
    return lambda tokens: perplexity(teacher, tokens[None])[0] <= limit


def require_answers(held_out: list[Sample], limit: float | None) -> None:
    """Check that the task can be evaluated on its held-out sequences.

    Args:
        held_out: sequences of both streams.
        limit: highest perplexity of answer tokens, as `Training.max_perplexity`.

    Raises:
        InputError: none of the task's held-out tokens counts; training would hardly learn either.
    """
    task = [sample.weights for sample in held_out if sample.stream == "task"]
    if not task or torch.stack(task).any():
        return
    easy = f" with a perplexity of {limit} or less in the dense model" if limit else ""
    raise InputError(
        f"The {len(task)} held-out sequences of the task have no answer token{easy}.",
        "Raise training.max_perplexity, or remove it from the recipe."
        if limit
        else "Use longer sequences (--length), or give more rows of the task.",
    )
