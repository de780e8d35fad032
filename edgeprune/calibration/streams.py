"""Token streams: rows in a seeded order, packed into sequences of one length."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        rows: the rows they came from, in order.
    """

    tokens: "Tensor"
    rows: list[Row]


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
    used: list[Row] = []
    for row in ordered:
        if len(tokens) >= samples * length:
            break
        tokens += tokenizer(renderer.calibration_text(row), add_special_tokens=False).input_ids
        used.append(row)
    full = min(samples, len(tokens) // length)
    if full == 0:
        raise InputError(
            f"The calibration rows of '{task.name}' hold {len(tokens)} tokens, fewer than one "
            f"sequence of {length}.",
            "Give more rows or a smaller --length.",
        )
    return Stream(torch.tensor(tokens[: full * length]).view(full, length), used)
