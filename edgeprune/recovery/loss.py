"""What recovery minimises."""

import torch
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of ``KL(teacher ‖ student)`` over tokens (Hinton et al., 1503.02531, T = 1).

    Args:
        student: logits, (tokens, vocabulary).
        teacher: logits of the dense model, the same shape.
        weights: of the tokens, (tokens,); if they sum to 1, the result is in nats per token.

    Returns:
        A number, differentiable in ``student``.
    """
    log_p, log_q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    divergence = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
    return (divergence * weights).sum()


def likelihood(student: Tensor, following: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of ``-log p`` of the tokens that follow, in nats.

    Args:
        student: logits, (tokens, vocabulary).
        following: the tokens to predict, (tokens,).
        weights: of the tokens, (tokens,).

    Returns:
        A number, differentiable in ``student``.
    """
    losses = torch.nn.functional.cross_entropy(student.float(), following, reduction="none")
    return (losses * weights).sum()


def hidden_distance(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Squared distance of hidden states relative to the teacher's power, mean over layers.

    SquareHead of sparse fine-tuning (arXiv 2310.06927).

    Args:
        student: hidden states of each layer, (1, tokens, width).
        teacher: the dense model's.

    Returns:
        A number, differentiable in ``student``.
    """
    distances = [
        (s.float() - t.float()).square().mean() / t.float().square().mean().clamp_min(1e-20)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).mean()
