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
