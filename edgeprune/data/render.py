"""Render rows as text or as messages, with the same template for calibration and evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

from edgeprune.data import tool_calls
from edgeprune.data.rows import Row
from edgeprune.data.shorten import shorten
from edgeprune.data.task import Task
from edgeprune.formats.chat import Message, Turn
from edgeprune.support.errors import InputError

# Between calibration rows that are packed into one sequence.
ROW_END = "\n\n"


class Renderer:
    """Prompts and answers of a task.

    Templates run in Jinja2's sandbox, since a task file may come from anyone.

    Args:
        task: the task.
        shots: solved rows that stand before every prompt (`edgeprune.data.loading.Source.shots`).

    Raises:
        InputError: a template is not valid, or names a field that the rows do not have.
    """

    def __init__(self, task: Task, shots: Sequence[Row] = ()):
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        self.task, self._shots = task, shots
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self._prompt = self._guard(environment.from_string, task.prompt)
        self._answer = self._guard(environment.from_string, task.answer)

    def prompt(self, row: Row) -> str:
        """Render what the model reads before the answer, solved rows first."""
        return "".join(map(self._solved, self._shots)) + self._own_prompt(row)

    def answer(self, row: Row, index: int) -> str:
        """Render one choice, or one correct answer, as it follows the prompt."""
        texts = row.choices or row.answers
        letter = chr(ord("A") + index)
        return self._guard(
            self._answer.render, row.fields | {"choice": texts[index], "letter": letter}
        )

    def calibration_text(self, row: Row) -> str:
        """Render a row with its correct answer, as a model without a chat template sees it."""
        if self.task.kind == "text":
            return self._own_prompt(row) + ROW_END
        return "".join(map(self._solved, [*self._shots, row]))

    def answer_span(self, row: Row) -> range:
        """Characters of `calibration_text` that are the answer; of plain text, all."""
        end = len(self.calibration_text(row)) - len(ROW_END)
        return range(0 if self.task.kind == "text" else len(self.prompt(row)), end)

    def turn(self, row: Row) -> Turn:
        """Render a row for the model's chat template; solved rows are turns before it."""
        before = [one for shot in self._shots for one in self._turns(shot)]
        *asked, reply = self._turns(row)
        system = [{"role": "system", "content": self.task.system}] if self.task.system else []
        if asked[0]["role"] == "system":
            system, asked = asked[:1], asked[1:]
        listed = self.task.kind == "tool_call" and self.task.tools == "listed"
        return Turn([*system, *before, *asked], reply, row.fields["tools"] if listed else [])

    def _turns(self, row: Row) -> list[Message]:
        """Render a row as messages, the right reply last."""
        if self.task.kind == "tool_call":
            return [*row.fields["messages"], tool_calls.reply(row.fields["calls"])]
        answer = self.answer(row, max(row.answer, 0)).strip()
        return [
            {"role": "user", "content": self._own_prompt(row)},
            {"role": "assistant", "content": answer},
        ]

    def _solved(self, row: Row) -> str:
        return self._own_prompt(row) + self.answer(row, max(row.answer, 0)) + ROW_END

    def _own_prompt(self, row: Row) -> str:
        fields, cut = row.fields, self.task.preprocess
        if cut:
            if missing := {cut.field, cut.against} - fields.keys():
                raise InputError(
                    f"preprocess of the task '{self.task.name}' names the field "
                    f"'{min(missing)}', and row {row.id} has {', '.join(sorted(fields))}.",
                    "Set preprocess.field and preprocess.against to fields of the rows.",
                )
            against = str(fields[cut.against])
            fields = fields | {cut.field: shorten(str(fields[cut.field]), against, **cut.how)}
        return str(self._guard(self._prompt.render, fields))

    def _guard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # a template may divide by zero as well as be misspelt
            raise InputError(
                f"A template of the task '{self.task.name}' failed: {error}.",
                "Templates can use the fields of a row; answer templates can also use 'choice' "
                "and 'letter'.",
            ) from None
