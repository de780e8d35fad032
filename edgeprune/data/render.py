"""Render rows as text or as messages, with the same template for calibration and evaluation."""

from collections.abc import Callable
from typing import Any

from edgeprune.data import tool_calls
from edgeprune.data.rows import Row
from edgeprune.data.task import Task
from edgeprune.formats.chat import Turn
from edgeprune.support.errors import InputError

# Between calibration rows that are packed into one sequence.
ROW_END = "\n\n"


class Renderer:
    """Prompts and answers of a task.

    Templates run in Jinja2's sandbox, since a task file may come from anyone.

    Raises:
        InputError: a template is not valid, or names a field that the rows do not have.
    """

    def __init__(self, task: Task):
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        self._task = task
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self._prompt = self._guard(environment.from_string, task.prompt)
        self._answer = self._guard(environment.from_string, task.answer)

    def prompt(self, row: Row) -> str:
        """Render what the model reads before the answer."""
        return self._guard(self._prompt.render, row.fields)

    def answer(self, row: Row, index: int) -> str:
        """Render one choice, or one correct answer, as it follows the prompt."""
        texts = row.choices or row.answers
        letter = chr(ord("A") + index)
        return self._guard(
            self._answer.render, row.fields | {"choice": texts[index], "letter": letter}
        )

    def calibration_text(self, row: Row) -> str:
        """Render a row with its correct answer, as a model without a chat template sees it."""
        if self._task.kind == "text":
            return self.prompt(row) + ROW_END
        return self.prompt(row) + self.answer(row, max(row.answer, 0)) + ROW_END

    def answer_span(self, row: Row) -> range:
        """Characters of `calibration_text` that are the answer; of plain text, all."""
        end = len(self.calibration_text(row)) - len(ROW_END)
        return range(0 if self._task.kind == "text" else len(self.prompt(row)), end)

    def turn(self, row: Row) -> Turn:
        """Render a row for the model's chat template."""
        system = [{"role": "system", "content": self._task.system}] if self._task.system else []
        if self._task.kind == "tool_call":
            fields = row.fields
            tools = fields["tools"] if self._task.tools == "listed" else []
            if fields["messages"][0]["role"] == "system":
                system = []
            return Turn([*system, *fields["messages"]], tool_calls.reply(fields["calls"]), tools)
        answer = {"role": "assistant", "content": self.answer(row, 0).strip()}
        return Turn([*system, {"role": "user", "content": self.prompt(row)}], answer, [])

    def _guard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # a template may divide by zero as well as be misspelt
            raise InputError(
                f"A template of the task '{self._task.name}' failed: {error}.",
                "Templates can use the fields of a row; answer templates can also use 'choice' "
                "and 'letter'.",
            ) from None
