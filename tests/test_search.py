"""`--max-loss`: bisection on held-out calibration rows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import Recipe, build
from edgeprune.calibration.data import load_data
from edgeprune.errors import CheckFailed, InputError
from edgeprune.search import Probe, bisect
from tests.test_pipeline import QUICK


@given(st.integers(2, 200), st.integers(0, 250))
def test_bisection_finds_the_last_step_that_holds(steps, last):
    found, probes = bisect(lambda step: Probe(step / 100, 0.0, step <= last), steps)
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
    with pytest.raises(InputError, match="one in 5 is held out"):
        load_data(str(few), "boolq_passages", 8, 512).hold_out()


def test_a_build_finds_its_sparsity_within_the_bound(tiny_folder, rows_file, tmp_path):
    recipe = Recipe(
        model=str(tiny_folder), task=str(rows_file), method="wanda", max_loss="3%", **QUICK
    )
    manifest = build(recipe, tmp_path / "out").manifest
    search = manifest["search"]
    assert search["metric"] == "nats_per_answer_token"  # a random model guesses
    assert search["bound"] == pytest.approx(1.03 * search["dense"])
    for probe in search["probes"]:
        assert probe["holds"] == (probe["value"] <= search["bound"])
    verified = search["probes"][-1]  # Wanda is tried on dense statistics, then as it is built
    assert verified["sparsity"] == search["sparsity"]
    held = [p["sparsity"] for p in search["probes"] if p["holds"]]
    beyond = [p["sparsity"] for p in search["probes"] if not p["holds"]]
    assert search["sparsity"] in held
    assert search["sparsity"] == manifest["recipe"]["sparsity"]
    assert not beyond or min(beyond) == pytest.approx(search["sparsity"] + 0.02)
    assert "How far it can be pruned" in (tmp_path / "out" / "report.html").read_text()
    trials = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work").rglob("trial-*.json")}
    assert len(trials) == len(search["probes"]) + 1
    build(recipe, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in trials} == trials


def test_a_bound_that_nothing_holds_says_so(tiny_folder, rows_file, tmp_path, monkeypatch):
    import sys

    def worse_at_once(recipe, *_):
        nats = {"value": 5.0 + recipe.sparsity}
        return {"accuracy": None, "near_guessing": False, "nats_per_answer_token": nats}

    monkeypatch.setattr(sys.modules["edgeprune.search"], "trial", worse_at_once)
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), max_loss="0%", **QUICK)
    with pytest.raises(CheckFailed, match=r"No sparsity from 2% up keeps .* 5\.000"):
        build(recipe, tmp_path / "out")
