"""Token streams: rows in a seeded order, packed into sequences of one length."""

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from edgeprune.calibration.render import Renderer
from edgeprune.calibration.rows import Row
from edgeprune.calibration.task import Task
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One calibration source as tokens.

    Attributes:
        tokens: (samples, length) int64.
        answers: (samples, length) boolean, tokens of an answer; of plain text, all.
        rows: the rows they came from, in order.
    """

    tokens: "Tensor"
    answers: "Tensor"
    rows: list[Row] = field(default_factory=list)

    def part(self, which: "Tensor | slice") -> Self:
        """Some of the sequences; of which rows they are is not kept apart."""
        return replace(self, tokens=self.tokens[which], answers=self.answers[which])


def pack(
    task: Task, rows: list[Row], tokenizer: Any, samples: int, length: int, seed: int
) -> Stream:
    """Tokenise rows one after another until ``samples`` sequences of ``length`` are full.

    A set that is too small gives fewer sequences, never repeated ones.

    Raises:
        InputError: not even one sequence can be filled.
    """
    import torch

    ordered = list(rows)
    random.Random(seed).shuffle(ordered)
    renderer = Renderer(task)
    tokens: list[int] = []
    answers: list[bool] = []
    used: list[Row] = []
    for row in ordered:
        if len(tokens) >= samples * length:
            break
        text, answer = renderer.calibration_text(row), renderer.answer_span(row)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens += encoded.input_ids
        answers += [answer.start < end <= answer.stop for _, end in encoded.offset_mapping]
        used.append(row)
    full = min(samples, len(tokens) // length)
    if full == 0:
        raise InputError(
            f"The calibration rows of '{task.name}' hold {len(tokens)} tokens, fewer than one "
            f"sequence of {length}.",
            "Give more rows or a smaller --length.",
        )
    shape = (full, length)
    size = full * length
    return Stream(
        torch.tensor(tokens[:size]).view(shape), torch.tensor(answers[:size]).view(shape), used
    )
