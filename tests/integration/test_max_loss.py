"""`--max-loss` in a build."""

import numpy as np
import pytest

from edgeprune import Recipe, build
from edgeprune.pipeline import max_loss as search_module
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.support.errors import CheckFailed
from edgeprune.support.progress import Quiet
from tests.support.recipes import QUICK


def test_a_build_finds_its_sparsity_within_the_bound(tiny_folder, rows_file, tmp_path):
    recipe = Recipe.of(
        QUICK, model=str(tiny_folder), task=str(rows_file), method="wanda", max_loss="3%"
    )
    manifest = build(recipe, tmp_path / "out").manifest.to_json()
    search = manifest["search"]
    assert search["metric"] == "nats_per_answer_token"  # a random model guesses
    assert search["bound"] == pytest.approx(1.03 * search["dense"])
    for probe in search["probes"]:
        assert probe["holds"] == (probe["worst"] <= search["bound"])
        assert probe["worst"] > probe["value"]
    verified = search["probes"][-1]  # Wanda is tried on dense statistics, then as it is built
    assert verified["sparsity"] == search["sparsity"]
    held = [p["sparsity"] for p in search["probes"] if p["holds"]]
    beyond = [p["sparsity"] for p in search["probes"] if not p["holds"]]
    assert search["sparsity"] in held
    assert search["sparsity"] == manifest["recipe"]["pruning"]["sparsity"]
    assert not beyond or min(beyond) == pytest.approx(search["sparsity"] + 0.02)
    assert "Search for the highest sparsity" in (tmp_path / "out" / "report.html").read_text()
    trials = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work").rglob("trial-*.json")}
    assert len(trials) == len(search["probes"]) + 1
    build(recipe, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in trials} == trials


def answered(nats: list[float]) -> dict:
    """What a trial gives of a task without choices, an answer of one token a row."""
    return {
        "accuracy": None, "near_chance": False,
        "nats_per_answer_token": {"value": float(np.mean(nats))}, "answers": {"nats": nats},
    }  # fmt: skip


def test_a_sparsity_that_only_luck_keeps_within_the_bound_does_not_hold(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    """4 % more nats on rows that scatter by 30 %, where 5 % may be lost."""
    chance = np.random.default_rng(0)
    dense = [4.0] * 40
    scattered = (4.16 + chance.permutation(np.linspace(-1.2, 1.2, 40))).tolist()
    monkeypatch.setattr(
        search_module,
        "trial",
        lambda job, *_: answered(scattered if job.recipe.pruning.sparsity else dense),
    )
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file), max_loss="5%")
    job = open_job(recipe, Workspace(tmp_path, Quiet()))
    with pytest.raises(CheckFailed, match="with 95% confidence"):
        search_module.settle(job)
    settled, found = search_module.settle(job.changed({"gates.confidence": 0.6}))
    assert settled.recipe.pruning.sparsity == 0.9
    assert found.sparsity == 0.9
    assert found.confidence == 0.6


def test_a_bound_that_nothing_holds_says_so(tiny_folder, rows_file, tmp_path, monkeypatch):
    def worse_at_once(job, *_):
        return answered([5.0 + job.recipe.pruning.sparsity] * 12)

    monkeypatch.setattr(search_module, "trial", worse_at_once)
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file), max_loss="0%")
    with pytest.raises(CheckFailed, match=r"No sparsity of 2% or more keeps .* 5\.000"):
        build(recipe, tmp_path / "out")


def test_a_search_holds_trained_models_against_the_dense_one(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    from edgeprune.pipeline import max_loss

    seen = []

    def trial(job, *_args):
        recipe = job.recipe
        seen.append((recipe.pruning.sparsity, recipe.training.enabled))
        nats = 4 + recipe.pruning.sparsity
        return {"accuracy": None, "near_chance": False, "nats_per_answer_token": {"value": nats},
                "answers": {"nats": [nats] * 12}}  # fmt: skip

    monkeypatch.setattr(max_loss, "trial", trial)
    recipe = Recipe.of(
        QUICK, model=str(tiny_folder), task=str(rows_file), recover=True, max_loss="10%"
    )
    _, found = max_loss.settle(open_job(recipe, Workspace(tmp_path, Quiet())))
    assert found.dense == 4
    assert seen[0] == (0.0, False)
    assert all(recover for _, recover in seen[1:])


def test_the_smallest_file_within_the_bound_is_chosen(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    """Where nothing is set, storages are chosen, and a file that is a little smaller is beyond."""
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        search_module,
        "trial",
        lambda job, *_: answered([4 + (job.recipe.goal.divergence if job.recipe.goal.choose else 0)]
                                 * 12),
    )  # fmt: skip
    settings = {**QUICK, "goal.choose": None, "training.enabled": True, "training.steps": 2}
    recipe = Recipe.of(settings, model=str(tiny_folder), task=str(rows_file), max_loss="10%")
    made = build(recipe, tmp_path / "out")
    manifest = made.manifest
    search, choice = manifest.search, manifest.choice
    held = [probe.divergence for probe in search.probes if probe.holds]
    beyond = [probe.divergence for probe in search.probes if not probe.holds]
    assert search.divergence == max(held) <= 0.4 < min(beyond)
    assert min(beyond) == pytest.approx(1.25 * max(held), rel=1e-3)
    assert {p.bytes for p in search.probes if p.divergence == search.divergence} == {choice.bytes}
    assert choice.loss <= search.divergence
    assert choice.goal == "max loss 10%"
    said = (tmp_path / "out" / "report.html").read_text()
    assert "Search for the smallest file" in said
    assert "The file is the smallest tried that keeps nats per answer token within 4.400" in said
