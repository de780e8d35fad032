"""Long inputs are cut to the sentences that matter, in edgeprune and in an application."""

import json
import runpy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.cli.tasks import command as tasks
from edgeprune.data.loading import load_data
from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row
from edgeprune.data.shorten import exported, shorten, shorten_message
from edgeprune.data.task import Task, open_task
from edgeprune.support.errors import InputError
from tests.support.sources import imports_of

WORDS = st.text("abcdefgh", min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=12).map(lambda w: " ".join(w).capitalize() + ".")
TEXTS = st.lists(SENTENCES, min_size=1, max_size=12).map(" ".join)

ABSTRACT = (
    "The cohort was recruited in nine centres. Aspirin lowered the risk of stroke by a fifth. "
    "Costs were not recorded. Bleeding was seen in three patients. We thank the nurses."
)


@given(TEXTS, TEXTS, st.integers(1, 40))
def test_what_is_kept_stood_there_in_this_order_and_fits(text, question, words):
    found = shorten(text, question, words)
    assert len(found.split()) <= max(words, 0)
    assert found
    if len(text.split()) <= words:
        assert found == text
    rest = iter(text.split())
    assert all(word in rest for word in found.split())  # a subsequence


def test_sentences_that_share_rare_words_with_the_question_stay():
    assert shorten(ABSTRACT, "Does aspirin prevent stroke?", 10) == (
        "Aspirin lowered the risk of stroke by a fifth."
    )
    assert "Bleeding" in shorten(ABSTRACT, "Was bleeding seen?", 16)


def test_patterns_come_before_the_question():
    found = shorten(ABSTRACT, "Does aspirin prevent stroke?", 6, (r"\bnurses?\b",))
    assert found == "We thank the nurses."


def test_one_sentence_that_is_too_long_is_cut():
    assert shorten("one two three four five.", "three", 2) == "one two"


def test_short_lines_of_a_message_ask_and_stay():
    long = " ".join([ABSTRACT] * 3)
    message = f"Abstract: {long}\nQuestion: Does aspirin prevent stroke?\nAnswer:"
    found = shorten_message(message, 20)
    assert found.endswith("\nQuestion: Does aspirin prevent stroke?\nAnswer:")
    assert len(found.split()) < 30
    assert "Aspirin lowered" in found
    alone = shorten_message(f"{long} Does aspirin prevent stroke?", 12)
    assert alone.splitlines()[-1] == "Does aspirin prevent stroke?"
    assert "Aspirin lowered" in alone
    assert shorten_message("Hi there.", 12) == "Hi there."


def test_the_exported_file_needs_nothing_and_cuts_alike(tmp_path):
    file = tmp_path / "shorten.py"
    file.write_text(exported(20, (r"stroke",)))
    assert set(imports_of(file)) <= {"math", "re", "collections.Counter", "sys"}
    theirs = runpy.run_path(str(file))
    message = f"{' '.join([ABSTRACT] * 3)}\nQuestion: Was bleeding seen?"
    ours = shorten_message(message, 20, (r"stroke",))
    assert theirs["shorten_message"](message, **theirs["SETTINGS"]) == ours


def _task(**more) -> Task:
    return Task(
        name="t",
        kind="short_answer",
        prompt="{{ context }}\n{{ question }}",
        sources=[{"kind": "local", "calibration": "a", "evaluation": "b"}],
        **more,
    )


def test_prompts_of_a_task_are_cut_for_calibration_and_evaluation_alike():
    row = Row(
        "1", {"question": "Does aspirin prevent stroke?", "context": ABSTRACT}, answers=("y",)
    )
    renderer = Renderer(_task(preprocess={"words": 10}))
    assert renderer.prompt(row).startswith("Aspirin lowered the risk")
    assert renderer.prompt(row) in renderer.calibration_text(row)
    assert renderer.turn(row).messages[-1]["content"] == renderer.prompt(row)
    assert Renderer(_task()).prompt(row).startswith("The cohort")


def test_a_field_that_rows_do_not_have_is_named():
    row = Row("1", {"question": "q", "passage": ABSTRACT}, answers=("y",))
    with pytest.raises(InputError, match="names the field 'context', and row 1 has passage"):
        Renderer(_task(preprocess={"words": 10})).prompt(row)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not a regular expression"):
        _task(preprocess={"words": 10, "patterns": ["("]})


def test_the_command_prints_the_file(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(_task(preprocess={"words": 7}).model_dump(exclude_defaults=True)))
    assert open_task(str(path)).preprocess.words == 7
    tasks.callback(str(path), as_json=False, preprocess=True)
    assert "'words': 7" in capsys.readouterr().out


def test_rows_on_a_disk_are_cut(tmp_path):
    rows = [
        {"question": f"Number {n}?", "context": f"{ABSTRACT} Number {n} is odd.", "answers": ["y"]}
        for n in range(40)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: short_answer\nprompt: '{{ context }} {{ question }}'\n"
        "preprocess: {words: 6}\n"
        "sources: [{kind: local, calibration: r.jsonl, evaluation: r.jsonl}]\n"
    )
    data = load_data(str(tmp_path / "t.yaml"), "boolq_passages", 5, 512)
    for row in data.evaluation:
        number = row.fields["question"].split()[1].rstrip("?")
        assert f"Number {number} is odd." in data.task.renderer.prompt(row)
