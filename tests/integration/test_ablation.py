"""`edgeprune ablate`: every row a real trial, tried once."""

import json

import pytest

from edgeprune import Recipe
from edgeprune.experiments.ablation import Variant, ablate, cells, markdown
from edgeprune.support.progress import Quiet
from tests.support.processes import run
from tests.support.recipes import QUICK, settings


def test_rows_are_measured_with_every_seed_and_once(tiny_folder, rows_file, tmp_path):
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file))
    rows = [Variant("wanda", "mix", "0.5"), Variant("alps", "fused", "2:4")]
    records = ablate(recipe, rows, [0, 1], tmp_path, Quiet())
    assert [record["method"] for record in records] == ["dense", "wanda", "alps"]
    for record in records[1:]:
        assert set(record["trials"]) == {0, 1}
        assert all(trial["sparsity"] == 0.5 for trial in record["trials"].values())
        values = [t["nats_per_answer_token"]["value"] for t in record["trials"].values()]
        summary = record["summary"]["nats_per_answer_token"]
        assert summary["value"] == pytest.approx(sum(values) / 2)
        assert summary["kind"] == "sd over seeds"
    assert records[0]["summary"]["nats_per_answer_token"]["kind"] == "95 % interval"
    on_disk = json.loads((tmp_path / "ablation.json").read_text())
    assert on_disk == json.loads(json.dumps(records))
    trials = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trial-*.json")}
    assert len(trials) == 5
    assert not (tmp_path / "trial").exists()
    more = ablate(recipe, [*rows, Variant("magnitude", "", "0.5")], [0, 1], tmp_path, Quiet())
    assert more[:3] == on_disk or json.loads(json.dumps(more[:3])) == on_disk
    assert {p: p.stat().st_mtime_ns for p in trials} == trials
    assert len(markdown(more).splitlines()) == 2 + 4
    assert cells(more[-1])[:3] == ["magnitude", "–", "0.5"]


def test_the_command_prints_a_table_and_draws_a_plot(tiny_folder, rows_file, tmp_path):
    done = run(
        "ablate", "--task", rows_file, "--model", tiny_folder, *settings(), "--methods", "wanda",
        "--fusions", "task", "--sparsities", "0.3", "--out", tmp_path / "a",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wanda" in done.stdout
    assert (tmp_path / "a" / "ablation.svg").read_text().startswith("<svg")
    listed = run("ablate", "--task", rows_file, "--methods", "wanda,alps", "--dry-run")
    assert "8 rows and the dense model; seeds per row: 1" in listed.stdout
    wrong = run("ablate", "--task", rows_file, "--methods", "wnada")
    assert wrong.returncode == 2
    assert "did you mean wanda" in wrong.stderr
