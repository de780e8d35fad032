"""Which recipe a build folder belongs to."""

from pathlib import Path

import pytest

from edgeprune import Recipe
from edgeprune.pipeline.folders import claim, default_folder, record
from edgeprune.recipe.goal import decided
from edgeprune.support.errors import UsageError


def folder(values: dict | None = None, /, **options) -> str:
    settings = {"data.task": "medqa", **(values or {})}
    return str(default_folder(Recipe.of(settings, **options)))


def test_default_folders_say_what_is_in_them():
    assert folder() == "builds/medqa-smollm2-135m-alps_fast-mix-50pct-q8_0"
    assert folder(pattern="2:4", target="onnx") == (
        "builds/medqa-smollm2-135m-alps_fast-mix-2of4-int8"
    )
    assert folder(max_loss="2%", recover=True) == (
        "builds/medqa-smollm2-135m-alps_fast-mix-loss2pct-q8_0-recovered"
    )
    assert folder(task="x/my.rows.jsonl", model="a/B-1.5B").startswith(
        "builds/my.rows-B-1.5B-alps_fast-mix-50pct-q8_0-"
    )


def test_recipes_of_other_artifacts_have_other_default_folders():
    recipes = [
        {}, {"pruning.allocation.kind": "owl"}, {"pruning.swaps": True}, {"pruning.head": True},
        {"artifact.rounding": "nearest"}, {"data.seed": 1}, {"data.general": "wikitext2"},
        {"artifact.type_map": {"ffn": "f16", "attn": "q4_0"}},
        {"artifact.type_map": {"attn": "q4_0", "ffn": "f16"}}, {"data.task": "a/rows.jsonl"},
        {"data.task": "b/rows.jsonl"}, {"model.name": "me/smollm2-135m"},
        {"pruning.sparsity": 0.501}, {"pruning.sparsity": 0.502},
        {"training.enabled": True, "training.steps": 5}, {"training.enabled": True},
    ]  # fmt: skip
    assert len({folder(values) for values in recipes}) == len(recipes)


def test_what_is_chosen_for_is_in_the_name_and_what_is_kept_beside_it_is_not_lost():
    def chosen(**options):
        return str(default_folder(decided(Recipe.of(task="medqa", **options))))

    start = "builds/medqa-smollm2-135m"
    assert chosen() == f"{start}-smallest-edgeprune-gguf"
    assert chosen(target="onnx", runtime="stock") == f"{start}-smallest-stock-onnx"
    assert chosen(size="60MB") == f"{start}-60MB-edgeprune-gguf"
    assert chosen(max_loss="2%") == f"{start}-loss2pct-edgeprune-gguf"
    kept = [
        {}, {"sparsity": 0.5}, {"sparsity": 0.6}, {"pattern": "2:4"}, {"type": "q4_0"},
        {"type": "q8_0"}, {"fusion": "fused"},
    ]  # fmt: skip
    assert len({chosen(size="60MB", **options) for options in kept}) == len(kept)


def test_the_same_recipe_has_one_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside = {
        "model.device": "cpu", "measurement.threads": 1, "measurement.eval_rows": 9,
        "measurement.rounds": 1, "gates.max_accuracy_loss": 1.0,
    }  # fmt: skip
    assert folder(beside) == folder()
    assert folder(task="./rows.jsonl") == folder(task="rows.jsonl")
    assert folder(task=str(tmp_path / "rows.jsonl")) == folder(task="rows.jsonl")
    assert folder(max_loss="2%", sparsity=0.3) == folder(max_loss="2%")


def test_a_begun_build_is_known(tmp_path):
    mine, other = Recipe.of(task="medqa"), Recipe.of(task="medqa", seed=1)
    claim(tmp_path, mine)
    claim(tmp_path, other)  # nothing has begun
    record(tmp_path, mine)
    with pytest.raises(UsageError, match=r"data\.seed 0 there, 1 here"):
        claim(tmp_path, other)
    claim(tmp_path, mine)
    claim(tmp_path, other, replace=True)


def test_a_sweep_leaves_another_recipes_build_alone(tmp_path):
    from edgeprune.experiments.sweep import Group, build_group
    from edgeprune.support.progress import Quiet

    claim(tmp_path / "one", Recipe.of(task="medqa"))
    record(tmp_path / "one", Recipe.of(task="medqa"))
    group = Group("key", {"one": Recipe.of(task="medqa", seed=1)})
    (outcome,) = build_group(group, tmp_path, Quiet())
    assert (outcome.state, outcome.exit_code) == ("error", 2)
    assert "data.seed 0 there, 1 here" in outcome.message
    assert [p.name for p in Path(tmp_path / "one" / "work").iterdir()] == ["recipe.json"]
