"""The losses of training: of tokens, of hidden states, and their sum over a step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.recovery.batches import Sample
from edgeprune.recovery.settings import Training
from edgeprune.support.distributed import add_up, world

_ROWS = 128  # at a time: vocabularies are long, and float32 of all tokens would fill the memory


class _Divergence(torch.autograd.Function):
    """The loss and its gradient ``w (q - target)`` in one chunked pass over weighted tokens."""

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
    """Compute the weighted sum of ``(1 - a) KL(teacher ‖ student) - a log p(following)``.

    Distillation (Hinton et al., 1503.02531, T = 1) with a share ``a`` of the text itself, as sparse
    fine-tuning has it (arXiv 2310.06927).

    Args:
        student: the student's logits, (tokens, vocabulary).
        teacher: the dense model's logits, the same shape, without gradients; None to learn from the
            text alone.
        following: the tokens that follow, (tokens,).
        share: ``a``, from 0 to 1; 1 without a teacher.
        weights: weights of the tokens, (tokens,); if they sum to 1, the result is in nats per
            token.

    Returns:
        A float32 scalar, differentiable in ``student``.
    """
    found: Tensor = _Divergence.apply(student, teacher, following, share, weights)
    return found


def hidden_distance(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], weights: Tensor
) -> Tensor:
    """Compute the squared distance of hidden states relative to the teacher's power, averaged.

    SquareHead of sparse fine-tuning (arXiv 2310.06927).

    Args:
        student: hidden states of each layer, (samples, length, width).
        teacher: the dense model's.
        weights: weights of the samples in the sum, (samples,).

    Returns:
        A scalar, differentiable in ``student``.
    """
    distances = [
        _power(s.float() - t.float()) / _power(t.float()).clamp_min(1e-20)
        for s, t in zip(student, teacher, strict=True)
    ]
    return (torch.stack(distances).mean(0) * weights).sum()


def _power(states: Tensor) -> Tensor:
    return states.square().mean((1, 2))


class Objective:
    """The training loss of sequences, weighted as each `Sample` says.

    General text is learnt from the dense model's predictions and from itself, conversations from
    its predictions, the task from them or from its answers alone.

    Args:
        student: the transformers model that is trained.
        teacher: the dense model; it only runs where its predictions are learnt.
        settings: settings of the training.
        device: device of both models.
    """

    def __init__(self, student: Any, teacher: Any, settings: Training, device: torch.device):
        self._student, self._teacher = student, teacher
        self._settings, self._device = settings, device

    def backward(self, samples: list[Sample]) -> float:
        """Compute the loss of sequences over all processes; add this process's gradients."""
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for together in self._passes(samples):
            loss = self._loss(together)
            loss.backward()
            total += loss.detach()
        add_up([total])
        return float(total)

    @torch.no_grad()
    def evaluate(self, samples: list[Sample]) -> float:
        """Compute the loss of the sequences over all processes, without gradients."""
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for together in self._passes(samples):
            total += self._loss(together)
        add_up([total])
        return float(total)

    def _passes(self, samples: list[Sample]) -> Iterator[list[Sample]]:
        """Group this process's sequences into passes; one sequence per pass to save memory."""
        rank, size = world()
        own = samples[rank::size]
        most = 1 if self._settings.save_memory else -(-self._settings.batch // size)
        for start in range(0, len(own), most):
            yield own[start : start + most]

    def _loss(self, samples: list[Sample]) -> Tensor:
        """Compute the loss of one pass; the dense model runs one sequence at a time."""
        options = {"use_cache": False, "output_hidden_states": self._settings.hidden_weight > 0}
        ids = torch.stack([sample.tokens for sample in samples]).to(self._device)
        student = self._student(input_ids=ids, **options)
        losses = []
        for place, (sample, logits) in enumerate(zip(samples, student.logits, strict=True)):
            weights = nn.functional.pad(sample.weights, (0, 1)).to(self._device)
            share, teacher = self._text_share(sample), None
            matches = self._settings.hidden_weight > 0 and not self._teaches_answers(sample)
            if share < 1 or matches:
                with torch.no_grad():
                    teacher = self._teacher(input_ids=ids[place, None], **options)
            theirs = teacher.logits[0] if teacher else None
            following = ids[place].roll(-1)  # nothing follows the last, which weighs nothing
            losses.append(distillation(logits, theirs, following, share, weights))
            if teacher and matches:
                states = tuple(state[place, None] for state in student.hidden_states)
                distance = hidden_distance(states, teacher.hidden_states, weights.sum()[None])
                losses.append(self._settings.hidden_weight * distance)
        return torch.stack(losses).sum()

    def _text_share(self, sample: Sample) -> float:
        """Return the share of a sequence's own tokens in its loss; the rest is distillation."""
        if self._teaches_answers(sample):
            return 1.0
        return self._settings.text_share if sample.stream == "general" else 0.0

    def _teaches_answers(self, sample: Sample) -> bool:
        return self._settings.answers and sample.stream == "task"
