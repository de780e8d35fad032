"""What recovery minimises."""

from typing import Any

import torch
from torch import Tensor

_ROWS = 128  # at a time: vocabularies are long, and float32 of all tokens would fill the memory


class _Divergence(torch.autograd.Function):
    """The loss and its gradient ``w (q - target)`` in one pass, in pieces, of what weighs."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor | None,
        following: Tensor,
        share: float,
        weights: Tensor,
    ) -> Tensor:
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=student.device)
        for rows in weights.nonzero()[:, 0].split(_ROWS):
            weight, token = weights[rows], following[rows, None]
            log_q = student[rows].float().log_softmax(-1)
            loss = -share * log_q.gather(-1, token)[:, 0]
            target = torch.zeros_like(log_q)
            if teacher is not None:
                log_p = teacher[rows].float().log_softmax(-1)
                target = log_p.exp()
                loss += (1 - share) * torch.linalg.vecdot(target, log_p.sub_(log_q))
                target *= 1 - share
            total += (weight * loss).sum()
            if gradient is not None:
                target.scatter_add_(-1, token, torch.full_like(loss, share)[:, None])
                gradient[rows] = log_q.exp_().sub_(target).mul_(weight[:, None]).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


def distillation(
    student: Tensor, teacher: Tensor | None, following: Tensor, share: float, weights: Tensor
) -> Tensor:
    """Weighted sum of ``(1 - a) KL(teacher ‖ student) - a log p(following)`` over tokens.

    Distillation (Hinton et al., 1503.02531, T = 1) with a share ``a`` of the text itself, as sparse
    fine-tuning has it (arXiv 2310.06927).

    Args:
        student: logits, (tokens, vocabulary).
        teacher: logits of the dense model, the same shape; they get no gradient. None, where the
            text alone is learnt.
        following: the tokens that follow, (tokens,).
        share: ``a``, from 0 to 1; 1 without a teacher.
        weights: of the tokens, (tokens,); if they sum to 1, the result is in nats per token.

    Returns:
        A number in float32, differentiable in ``student``.
    """
    found: Tensor = _Divergence.apply(student, teacher, following, share, weights)
    return found


def hidden_distance(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], weights: Tensor
) -> Tensor:
    """Squared distance of hidden states relative to the teacher's power, mean over layers.

    SquareHead of sparse fine-tuning (arXiv 2310.06927).

    Args:
        student: hidden states of each layer, (samples, length, width).
        teacher: the dense model's.
        weights: of the samples in the sum over them, (samples,).

    Returns:
        A number, differentiable in ``student``.
    """
    distances = [
        _power(s.float() - t.float()) / _power(t.float()).clamp_min(1e-20)
        for s, t in zip(student, teacher, strict=True)
    ]
    return (torch.stack(distances).mean(0) * weights).sum()


def _power(states: Tensor) -> Tensor:
    return states.square().mean((1, 2))
