"""Answers that are written: labels, solved rows before a prompt, what ends an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.data.loading import load_data
from edgeprune.data.streams import pack
from edgeprune.data.task import Task
from edgeprune.models.loading import load_tokenizer
from edgeprune.pipeline.measure import measure_plan
from edgeprune.recipe.schema import Recipe
from edgeprune.support.errors import InputError
from runtime_tests.accuracy import chance_level, judge
from runtime_tests.runners.inputs import up_to

SCORES = [{"logprob": -1.0, "tokens": 1}]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A labelling task, its labels written."""
    folder = tmp_path_factory.mktemp("reviews")
    rows = [
        {"question": f"Film number {n} was {'good' if n % 3 else 'bad'}.", "answer": int(n % 3 > 0)}
        for n in range(80)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str, more: str = "") -> str:
        path = folder / f"{name}.yaml"
        path.write_text(
            "name: reviews\nkind: multiple_choice\nchoices: [negative, positive]\n"
            "prompt: 'Review: {{ question }}\\nLabel:'\nmetric: exact_match\n"
            f"{more}\nsources: [{{kind: local, calibration: rows.jsonl, evaluation: rows.jsonl}}]\n"
        )
        return str(path)

    return write


def _items(task: str):
    return measure_plan(Recipe.of(task=task), load_data(task, "boolq_passages", 20, 512)).items


def test_labels_are_written_and_the_right_one_is_scored(reviews):
    items = _items(reviews("plain"))
    for item in items:
        (right,) = item.continuations
        label = right.strip()
        assert judge(item, SCORES, "exact_match", f" {label.upper()}.").correct
        other = {"negative": "positive", "positive": "negative"}[label]
        assert not judge(item, SCORES, "exact_match", other).correct
        assert item.chat.turn.reply["content"] == label
    most = max(sum(i.continuations[0] == x for i in items) for x in (" negative", " positive"))
    assert chance_level(items) == most / len(items)


def test_solved_rows_stand_before_every_prompt_and_are_not_learnt(reviews, real_checkpoint):
    data = load_data(reviews("shots", "few_shot: 2"), "boolq_passages", 20, 512)
    shots, renderer = data.task.shots, data.task.renderer
    assert len(shots) == 2
    everywhere = [*data.task.split.calibration, *data.task.split.evaluation]
    assert not {row.id for row in shots} & {row.id for row in everywhere}
    row = data.evaluation[0]
    texts = [shot.fields["question"] for shot in shots]
    prompt = renderer.prompt(row)
    assert prompt.index(texts[0]) < prompt.index(texts[1]) < prompt.index(row.fields["question"])
    span = renderer.answer_span(row)
    own = renderer.calibration_text(row)[span.start : span.stop]
    assert own == renderer.answer(row, row.answer)
    turn = renderer.turn(row)
    assert [one["role"] for one in turn.messages] == ["user", "assistant"] * 2 + ["user"]
    stream = pack(
        renderer, data.task.split.calibration[:12], load_tokenizer(real_checkpoint), 4, 128, 0
    )
    # a label and the end of the turn, of one row in so many tokens, not of three
    assert 0 < stream.answers.float().mean() < 0.05


def test_the_same_rows_are_solved_whatever_is_measured(reviews):
    path = reviews("same", "few_shot: 3")
    few, many = (load_data(path, "boolq_passages", n, 512).task.shots for n in (3, 20))
    assert few == many


def test_too_few_rows_to_solve_are_said(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps({"question": f"q {n}", "answers": ["a"]}) + "\n" for n in range(12))
    )
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: short_answer\nfew_shot: 40\n"
        "sources: [{kind: local, calibration: r.jsonl, evaluation: r.jsonl}]\n"
    )
    with pytest.raises(InputError, match="few_shot takes 40 of"):
        load_data(str(tmp_path / "t.yaml"), "boolq_passages", 5, 512)


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("multiple_choice", {"metric": "acc", "chat": True}, "chat True does not fit"),
        ("text", {"few_shot": 1}, "few_shot does not fit"),
        ("tool_call", {"chat": False}, "chat False does not fit"),
        ("tool_call", {"preprocess": {"words": 9}}, "preprocess does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(kind, more, words):
    sources = [{"kind": "local", "calibration": "a", "evaluation": "b"}]
    with pytest.raises(ValueError, match=words):
        Task(name="t", kind=kind, sources=sources, **more)


@given(st.text(), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_an_answer_ends_before_what_stops_it(text, stop):
    found = up_to(text, stop)
    assert text.strip().startswith(found)
    assert not any(one in found for one in stop)
    if not any(one in text for one in stop):
        assert found == text.strip()
