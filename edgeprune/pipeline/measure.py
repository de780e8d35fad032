"""What the runtime tests of a task measure, in words that know nothing of tasks."""

from typing import TYPE_CHECKING

from edgeprune.data.loading import Data
from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row
from edgeprune.recipe.schema import Recipe
from edgeprune.support import environment

if TYPE_CHECKING:
    import runtime_tests
    from runtime_tests.accuracy import Item


def measure_plan(recipe: Recipe, data: Data, rows: list[Row] | None = None) -> "runtime_tests.Plan":
    """What to measure on the evaluation rows, or on others of the same task."""
    import runtime_tests

    return runtime_tests.Plan(
        items=_items(data, data.evaluation if rows is None else rows),
        metric=data.task.task.metric,
        max_answer_tokens=data.task.task.max_answer_tokens,
        general_text=data.general_text,
        perplexity_tokens=recipe.perplexity_tokens,
        prefill_tokens=recipe.prefill_tokens,
        decode_tokens=recipe.decode_tokens,
        rounds=recipe.rounds,
        threads=recipe.threads or environment.cores(),
    )


def _items(data: Data, rows: list[Row]) -> list["Item"]:
    """Rows as plain text: all that `runtime_tests` knows of a task."""
    from runtime_tests.accuracy import Item

    renderer = Renderer(data.task.task)
    if data.task.task.kind == "text":
        return [Item(row.id, "", (renderer.prompt(row),), 0) for row in rows]
    items = []
    for row in rows:
        count = len(row.choices) or 1  # of a short answer's right answers, the first is scored
        continuations = tuple(renderer.answer(row, i) for i in range(count))
        items.append(
            Item(
                id=row.id,
                prompt=renderer.prompt(row),
                continuations=continuations,
                answer=max(row.answer, 0),
                lengths=tuple(map(len, row.choices)),
                accepted=row.answers,
            )
        )
    return items
