"""`--max-loss`: bisection on held-out calibration rows."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.data.loading import load_data
from edgeprune.data.rows import normalised
from edgeprune.manifest.manifest import Probe
from edgeprune.pipeline import max_loss as search_module
from edgeprune.pipeline.max_loss import bisect
from edgeprune.support.errors import InputError


@given(st.integers(2, 200), st.integers(0, 250))
def test_bisection_finds_the_last_step_that_holds(steps, last):
    def probe(step: int) -> Probe:
        return Probe(sparsity=step / 100, value=0.0, worst=0.0, holds=step <= last)

    found, probes = bisect(probe, steps)
    assert found == min(last, steps - 1)
    assert len(probes) <= math.ceil(math.log2(steps)) + 1


def test_held_out_rows_are_neither_calibrated_nor_measured_on(rows_file):
    data = load_data(str(rows_file), "boolq_passages", 8, 512)
    rest, held_out = data.hold_out()
    taken = {row.id for row in held_out}
    assert len(taken) == math.ceil(len(data.task.split.calibration) / 5)
    kept = {row.id for row in rest.task.split.calibration}
    assert kept | taken == {row.id for row in data.task.split.calibration}
    assert not kept & taken
    assert not taken & {row.id for row in data.task.split.evaluation}
    assert data.hold_out()[1] == held_out


def test_too_few_rows_to_hold_any_out(rows_file, tmp_path):
    few = tmp_path / "few.jsonl"
    rows = rows_file.read_text().splitlines(keepends=True)
    few.write_text("".join(rows[:30] + rows[-30:]))
    with pytest.raises(InputError, match="holds out one in 5"):
        load_data(str(few), "boolq_passages", 8, 512).hold_out()


def test_accuracy_is_judged_by_the_answers_that_changed():
    dense = {"accuracy": {"value": 0.5}, "answers": {"correct": [True, False] * 100}}
    few = {"answers": {"correct": [False] * 2 + [True, False] * 99}}
    many = {"answers": {"correct": [False, True] * 20 + [True, False] * 79 + [False] * 2}}
    worst = [search_module._worst("accuracy", dense, tried, 0.95) for tried in (few, many)]
    assert 0.5 - 0.03 < worst[0] < 0.5 - 1 / 200
    assert worst[1] < 0.5 - 0.05  # as many points lost, on 41 answers that changed


def passages(tmp_path, count: int, each: int, context_of) -> Path:
    path = tmp_path / "passages.jsonl"
    rows = [
        {"question": f"Does passage {p} say anything on matter {q}?",
         "context": context_of(p), "choices": ["yes", "no"], "answer": (p + q) % 2}
        for p in range(count) for q in range(each)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("words", [3, 30])
def test_no_passage_stands_on_both_sides_of_the_hold_out(tmp_path, words):
    """Short passages too, which the split guard takes for instructions."""
    path = passages(tmp_path, 150, 4, lambda p: " ".join(f"word{p}x{i}" for i in range(words)))
    rest, held_out = load_data(str(path), "boolq_passages", 8, 512).hold_out()
    judged = {row.fields["context"] for row in held_out}
    kept = {row.fields["context"] for row in rest.task.split.calibration}
    assert len(held_out) == 4 * len(judged) >= 40
    assert not judged & kept


def test_what_is_judged_on_is_in_no_stream(shared_data, monkeypatch):
    """BoolQ's passages are its general text by default: they too leave with their rows."""
    monkeypatch.setenv("EDGEPRUNE_DATA", str(shared_data))
    data = load_data("boolq", "boolq_passages", 8, 512)
    rest, held_out = data.hold_out()
    judged = {normalised(row.fields["context"]) for row in held_out}
    assert judged & {normalised(row.fields["text"]) for row in data.general.split.calibration}
    for source in (rest.general, rest.task):
        rows = source.split.calibration
        texts = {normalised(row.fields.get("context") or row.fields["text"]) for row in rows}
        assert len(rows) > 500
        assert not judged & texts


def test_a_held_out_row_that_is_calibrated_on_is_refused(rows_file):
    data = load_data(str(rows_file), "boolq_passages", 8, 512)
    rest, held_out = data.hold_out()
    rest.refuse_overlap({"general": [], "task": [r.id for r in rest.task.split.calibration]})
    leaky = replace(rest, task=data.task)
    with pytest.raises(InputError, match="task stream"):
        leaky.refuse_overlap({"general": [], "task": [held_out[0].id]})
