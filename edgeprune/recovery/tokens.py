"""Which tokens are learnt from, and how much each counts."""

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
    """How much predicting each token but the first counts, by stream.

    Args:
        streams: ``general`` and ``task``.
        answers: whether the task's answers alone are learnt, as `Training.answers`.
        answer_weight: of tokens of answers, where all are learnt; others weigh 1.

    Returns:
        (sequences, length - 1) float32 each.
    """
    weights = {name: torch.ones(stream.tokens.shape)[:, 1:] for name, stream in streams.items()}
    wanted = streams["task"].answers[:, 1:]
    if answers:
        weights["task"] = wanted.float()
    else:
        weights["task"][wanted] = answer_weight
    return weights


def low_perplexity(teacher: Any, limit: float) -> Callable[[Tensor], Tensor]:
    """Tells the tokens that the dense model finds easy enough to be learnt (arXiv 2501.14315).

    Args:
        teacher: the dense model.
        limit: the highest perplexity of a token that is learnt.

    Returns:
        A function of a sequence, (length,); it gives (length - 1,) booleans, for every token but
        the first.
    """
    return lambda tokens: perplexity(teacher, tokens[None])[0] <= limit


def require_answers(held_out: list[Sample], limit: float | None) -> None:
    """Check that the task can be judged by its held-out sequences.

    Args:
        held_out: sequences of both streams.
        limit: of the perplexity of answers' tokens, as `Training.max_perplexity`.

    Raises:
        InputError: none of the task's tokens counts; then hardly anything can be learnt either.
    """
    task = [sample.weights for sample in held_out if sample.stream == "task"]
    if not task or torch.stack(task).any():
        return
    easy = f" has a perplexity of {limit} or less to the dense model" if limit else ""
    raise InputError(
        f"No token of an answer{easy} in the {len(task)} held-out sequences of the task.",
        "Raise recover_max_perplexity, or leave it out."
        if limit
        else "Give longer sequences (length), or more rows of the task.",
    )
