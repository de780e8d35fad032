"""Convert a task to the plain items that the runtime tests measure."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgeprune.data.loading import Data
from edgeprune.data.rows import Row
from edgeprune.data.tool_calls import joined
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.speech import speech
from edgeprune.recipe.schema import Recipe
from edgeprune.runtime.llamacpp import availability
from edgeprune.support import environment
from edgeprune.support.files import sha256_json

if TYPE_CHECKING:
    import runtime_tests
    from runtime_tests.accuracy import Item
    from runtime_tests.calls import Chat


_VERSION = 12


def measure(job: Job, artifacts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure the artifact beside the dense baseline, and on GPUs where the runtime finds some."""
    import runtime_tests

    folder, progress = job.run.folder, job.run.progress
    asked = replace(measure_plan(job.recipe, job.data), speech=speech(job))
    hashes = {name: facts["files"] for name, facts in artifacts.items()}
    here = [environment.describe(), availability.fingerprint()]
    key = sha256_json([_VERSION, asdict(asked), hashes, here])
    paths = {name: folder / facts["file"] for name, facts in artifacts.items()}
    results = job.run.reuse(
        "runtime-test", key, lambda: runtime_tests.run(paths, asked, progress.stage)
    )
    newest = paths.get("pruned", paths["dense"])
    gpus = job.run.reuse(  # a record of its own: whatever happens there, the CPU's figures are kept
        "runtime-test-gpus",
        key,
        lambda: runtime_tests.run_on_gpus(newest, asked, progress.stage),
        still_good=lambda found: not any("failed" in one for one in found.values()),
    )
    return results | ({"gpus": gpus} if gpus else {})


def measure_plan(recipe: Recipe, data: Data, rows: list[Row] | None = None) -> "runtime_tests.Plan":
    """Make the measurement plan for the evaluation rows, or for others of the same task."""
    import runtime_tests

    return runtime_tests.Plan(
        items=_items(data, data.evaluation if rows is None else rows),
        metric=data.task.task.metric,
        max_answer_tokens=data.task.task.max_answer_tokens,
        stop=tuple(data.task.task.stop),
        general_text=data.general_text,
        perplexity_tokens=recipe.measurement.perplexity_tokens,
        prefill_tokens=recipe.measurement.prefill_tokens,
        decode_tokens=recipe.measurement.decode_tokens,
        processes=recipe.measurement.processes,
        rounds=recipe.measurement.rounds,
        threads=recipe.measurement.threads or environment.cores(),
    )


def _items(data: Data, rows: list[Row]) -> list["Item"]:
    """Render rows as plain text, which is all that `runtime_tests` needs of a task."""
    from runtime_tests.accuracy import Item

    renderer, written = data.task.renderer, data.task.task.metric == "exact_match"
    chats = _chats(data, rows)
    if data.task.task.kind == "text":
        return [Item(row.id, "", (renderer.prompt(row),), 0) for row in rows]
    items = []
    for row in rows:
        # Of a short answer's right answers, the first is scored; of what is written, the right one.
        right = max(row.answer, 0)
        scored = [right] if written else range(len(row.choices) or 1)
        answers = {index: renderer.answer(row, index) for index in scored}
        items.append(
            Item(
                id=row.id,
                prompt=renderer.prompt(row),
                continuations=tuple(answers.values()),
                answer=0 if written else right,
                lengths=tuple(map(len, row.choices)),
                accepted=(*row.answers, answers[right]),
                choices=row.choices,
                chat=chats.get(row.id),
            )
        )
    return items


def _chats(data: Data, rows: list[Row]) -> "dict[str, Chat]":
    """Render rows of a task that goes through the chat template, by their ids."""
    from runtime_tests.calls import Chat

    task, renderer = data.task.task, data.task.renderer
    if not task.chat:
        return {}
    learnt = task.kind == "tool_call" and task.tools == "learnt"
    # What an app has, not what a row lists: the functions of all rows that are learnt from.
    known = joined(row.fields["tools"] for row in data.task.split.calibration) if learnt else []
    found = {}
    for row in rows:
        turn = renderer.turn(row)
        functions = known if learnt else turn.tools
        found[row.id] = Chat(turn, functions, row.fields.get("calls", []))
    return found
