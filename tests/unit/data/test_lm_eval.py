"""Task files for lm-evaluation-harness, read by the harness itself."""

import json

import pytest
import yaml

from edgeprune.data import lm_eval
from edgeprune.data.loading import load_data
from edgeprune.pipeline.measure import measure_plan
from edgeprune.recipe.schema import Recipe
from edgeprune.support.errors import UsageError


def _exported(task, folder, rows=6):
    data = load_data(task, "boolq_passages", rows, 512)
    file = lm_eval.write(data, folder)
    lines = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    return data, file, lines


def test_the_harness_asks_what_a_build_is_measured_on(rows_file, tmp_path):
    from lm_eval.api.task import ConfigurableTask

    data, file, _ = _exported(str(rows_file), tmp_path)
    items = measure_plan(Recipe.of(task=str(rows_file)), data).items
    task = ConfigurableTask(config=yaml.safe_load(file.read_text()))
    task.build_all_requests(rank=0, world_size=1)
    asked: dict[int, list[tuple[str, str]]] = {}
    for one in task.instances:
        asked.setdefault(one.doc_id, []).append(one.args)
    assert len(asked) == len(items)
    for number, item in enumerate(items):
        assert asked[number] == [(item.prompt, end) for end in item.continuations]
        assert task.doc_to_target(task.eval_docs[number]) == item.answer


def test_written_answers_are_compared_as_text(tmp_path):
    rows = [{"question": f"{n} + 1?", "answers": [str(n + 1)]} for n in range(40)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, file, lines = _exported(str(path), tmp_path / "out")
    settings = yaml.safe_load(file.read_text())
    assert settings["output_type"] == "generate_until"
    assert settings["generation_kwargs"]["until"] == ["\n"]
    assert [line["answers"] for line in lines] == [list(row.answers) for row in data.evaluation]


def test_calls_are_not_the_harness_s(tmp_path):
    with pytest.raises(UsageError, match="does not judge"):
        _exported("app_actions", tmp_path)
