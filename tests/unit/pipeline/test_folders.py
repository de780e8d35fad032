"""Which recipe a build folder belongs to."""

import json
from pathlib import Path

import pytest

from edgeprune import Recipe
from edgeprune.pipeline.folders import claim, default_folder, record
from edgeprune.support.errors import UsageError


def folder(**values) -> str:
    return str(default_folder(Recipe(**({"task": "medqa"} | values))))


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
        {}, {"allocation": "owl"}, {"swaps": True}, {"prune_head": True}, {"rounding": "nearest"},
        {"seed": 1}, {"general": "wikitext2"}, {"type_map": {"ffn": "f16", "attn": "q4_0"}},
        {"type_map": {"attn": "q4_0", "ffn": "f16"}}, {"task": "a/rows.jsonl"},
        {"task": "b/rows.jsonl"}, {"model": "me/smollm2-135m"}, {"sparsity": 0.501},
        {"sparsity": 0.502}, {"recover": True, "recover_steps": 5}, {"recover": True},
    ]  # fmt: skip
    assert len({folder(**values) for values in recipes}) == len(recipes)


def test_the_same_recipe_has_one_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside = {"device": "cpu", "threads": 1, "eval_rows": 9, "rounds": 1, "max_accuracy_loss": 1.0}
    assert folder(**beside) == folder()
    assert folder(task="./rows.jsonl") == folder(task="rows.jsonl")
    assert folder(task=str(tmp_path / "rows.jsonl")) == folder(task="rows.jsonl")
    assert folder(max_loss="2%", sparsity=0.3) == folder(max_loss="2%")


def test_a_begun_build_and_one_of_an_older_version_are_known(tmp_path):
    mine, other = Recipe(task="medqa"), Recipe(task="medqa", seed=1)
    claim(tmp_path, mine)
    claim(tmp_path, other)  # nothing has begun
    record(tmp_path, mine)
    with pytest.raises(UsageError, match="seed 0 there, 1 here"):
        claim(tmp_path, other)
    claim(tmp_path, mine)
    (tmp_path / "work" / "recipe.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": mine.model_dump()}))
    with pytest.raises(UsageError, match="seed 0 there, 1 here"):
        claim(tmp_path, other)
    claim(tmp_path, other, replace=True)


def test_a_sweep_leaves_another_recipes_build_alone(tmp_path):
    from edgeprune.experiments.sweep import Group, build_group
    from edgeprune.support.progress import Quiet

    claim(tmp_path / "one", Recipe(task="medqa"))
    record(tmp_path / "one", Recipe(task="medqa"))
    group = Group("key", {"one": Recipe(task="medqa", seed=1)})
    (outcome,) = build_group(group, tmp_path, Quiet())
    assert (outcome.state, outcome.exit_code) == ("error", 2)
    assert "seed 0 there, 1 here" in outcome.message
    assert [p.name for p in Path(tmp_path / "one" / "work").iterdir()] == ["recipe.json"]
