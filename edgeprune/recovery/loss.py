"""What recovery minimises."""

from typing import Any

import torch
from torch import Tensor

_ROWS = 128  # at a time: vocabularies are long, and float32 of all tokens would fill the memory


class _Divergence(torch.autograd.Function):
    """The divergence and its gradient ``w (q - target)`` in one pass, in pieces."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, following: Tensor, text: Tensor, weights: Tensor
    ) -> Tensor:
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=student.device)
        for start in range(0, len(student), _ROWS):
            rows = slice(start, start + _ROWS)
            log_p = teacher[rows].float().log_softmax(-1)
            log_q = student[rows].float().log_softmax(-1)
            p, weight, share, token = log_p.exp(), weights[rows], text[rows], following[rows, None]
            surprise = -log_q.gather(-1, token)[:, 0]
            divergence = torch.linalg.vecdot(p, log_p.sub_(log_q))
            total += (weight * divergence.lerp(surprise, share)).sum()
            if gradient is not None:
                target = p.mul_(1 - share[:, None]).scatter_add_(-1, token, share[:, None])
                gradient[rows] = log_q.exp_().sub_(target).mul_(weight[:, None])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


def distillation(
    student: Tensor, teacher: Tensor, following: Tensor, text: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of ``(1 - a) KL(teacher ‖ student) - a log p(following)`` over tokens.

    Distillation (Hinton et al., 1503.02531, T = 1) with a share ``a`` of the text itself, as sparse
    fine-tuning has it (arXiv 2310.06927).

    Args:
        student: logits, (tokens, vocabulary).
        teacher: logits of the dense model, the same shape; they get no gradient.
        following: the tokens that follow, (tokens,).
        text: their shares ``a``, (tokens,), from 0 to 1.
        weights: of the tokens, (tokens,); if they sum to 1, the result is in nats per token.

    Returns:
        A number in float32, differentiable in ``student``.
    """
    found: Tensor = _Divergence.apply(student, teacher, following, text, weights)
    return found


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
