"""Token streams: rows in a seeded order, packed into sequences of equal length."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from edgeprune.data.encoding import Encoded, encoded
from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row
from edgeprune.data.template import ChatTemplate
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
    renderer: Renderer, rows: list[Row], tokenizer: Any, samples: int, length: int, seed: int
) -> Stream:
    """Tokenise rows one after another until ``samples`` sequences of ``length`` are full.

    Each sequence begins with the tokenizer's BOS, if it adds one: it counts towards ``length``.
    Rows of a task that goes through the chat template do, if the tokenizer has one.

    A set that is too small gives fewer sequences; no row is repeated.

    Raises:
        InputError: the rows do not fill even one sequence.
    """
    task = renderer.task
    template = ChatTemplate.of(tokenizer) if task.chat else None

    def encode(row: Row) -> Encoded:
        if template:
            turn = renderer.turn(row)
            return template.conversation([*turn.messages, turn.reply], turn.tools, only_last=True)
        text, answer = renderer.calibration_text(row), renderer.answer_span(row)
        return encoded(tokenizer, text, [answer])

    start = (
        []
        if template
        else opening(lambda text, special: tokenizer(text, add_special_tokens=special).input_ids)
    )
    stream, tokens = filled(rows, encode, samples, length, seed, start)
    if not len(stream.tokens):
        raise InputError(
            f"The calibration rows of '{task.name}' hold {tokens} tokens, fewer than one "
            f"sequence of {length}.",
            "Give more rows, or a smaller --length.",
        )
    return stream


def filled(
    rows: Iterable[Row],
    encode: Callable[[Row], Encoded],
    samples: int,
    length: int,
    seed: int,
    start: Sequence[int] = (),
) -> tuple[Stream, int]:
    """Fill sequences with the tokens of rows, in a random order, one after another.

    Args:
        rows: none is repeated.
        encode: tokens of a row, and which of them are of an answer.
        samples: number of sequences at most.
        length: of a sequence.
        seed: of the order.
        start: tokens that every sequence begins with; they count towards ``length``.

    Returns:
        The sequences, perhaps none, and the number of tokens there were for them.
    """
    import torch

    ordered = list(rows)
    random.Random(seed).shuffle(ordered)
    room = length - len(start)
    tokens: list[int] = []
    answers: list[bool] = []
    used: list[Row] = []
    for row in ordered:
        if len(tokens) >= samples * room:
            break
        ids, own = encode(row)
        tokens += ids
        answers += own
        used.append(row)
    full = min(samples, len(tokens) // room)
    inside = torch.tensor(tokens[: full * room], dtype=torch.long).view(full, room)
    wanted = torch.tensor(answers[: full * room], dtype=torch.bool).view(full, room)
    first = torch.tensor(start, dtype=torch.long).expand(full, -1)
    stream = Stream(
        torch.cat([first, inside], 1),
        torch.cat([torch.zeros_like(first, dtype=torch.bool), wanted], 1),
        used,
    )
    return stream, len(tokens)
