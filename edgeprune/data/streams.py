"""Token streams: rows in a seeded order, packed into sequences of equal length."""

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row
from edgeprune.data.task import Task
from edgeprune.models.opening import opening
from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One calibration source as tokens.

    Attributes:
        tokens: (samples, length) int64; each begins with a BOS where the tokenizer adds one.
        answers: (samples, length) boolean, tokens of an answer; of plain text, all but the BOS.
        rows: the rows they came from, in order.
    """

    tokens: "Tensor"
    answers: "Tensor"
    rows: list[Row] = field(default_factory=list)

    def part(self, which: "Tensor | slice") -> Self:
        """Select some of the sequences; `rows` still lists the rows of all of them."""
        return replace(self, tokens=self.tokens[which], answers=self.answers[which])


def pack(
    task: Task, rows: list[Row], tokenizer: Any, samples: int, length: int, seed: int
) -> Stream:
    """Tokenise rows one after another until ``samples`` sequences of ``length`` are full.

    Each begins with the tokenizer's BOS, if it adds one: it counts towards ``length``.

    A set that is too small gives fewer sequences; no row is repeated.

    Raises:
        InputError: the rows do not fill even one sequence.
    """
    import torch

    ordered = list(rows)
    random.Random(seed).shuffle(ordered)
    renderer = Renderer(task)
    start = opening(lambda text, special: tokenizer(text, add_special_tokens=special).input_ids)
    room = length - len(start)
    tokens: list[int] = []
    answers: list[bool] = []
    used: list[Row] = []
    for row in ordered:
        if len(tokens) >= samples * room:
            break
        text, answer = renderer.calibration_text(row), renderer.answer_span(row)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens += encoded.input_ids
        answers += [answer.start < end <= answer.stop for _, end in encoded.offset_mapping]
        used.append(row)
    full = min(samples, len(tokens) // room)
    if full == 0:
        raise InputError(
            f"The calibration rows of '{task.name}' hold {len(tokens)} tokens, fewer than one "
            f"sequence of {length}.",
            "Give more rows, or a smaller --length.",
        )
    filled = torch.tensor(tokens[: full * room]).view(full, room)
    wanted = torch.tensor(answers[: full * room]).view(full, room)
    first = torch.tensor(start, dtype=filled.dtype).expand(full, -1)
    return Stream(
        torch.cat([first, filled], 1),
        torch.cat([torch.zeros_like(first, dtype=torch.bool), wanted], 1),
        used,
    )
