from pathlib import Path

import pytest

from edgeprune.cli.options import _OPTIONS
from edgeprune.recipe import load
from edgeprune.recipe import schema as recipes
from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.resources import config_folder, shipped

ALL_RECIPES = sorted(config_folder("recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", ALL_RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_says_how_to_launch_it(path: Path):
    load.load(str(path))
    assert path.read_text().startswith("# ")
    assert f"edgeprune build --recipe {path.stem}" in path.read_text()


def test_all_mistakes_come_at_once_with_the_nearest_names():
    with pytest.raises(UsageError) as caught:
        recipes.make({"task": "medqa", "methd": "wanda", "samples": 0, "type": "q8", "lenght": 5})
    text = str(caught.value)
    assert "did you mean method" in text
    assert "did you mean length?" in text
    assert "samples" in text
    assert "q8_0" in text


def test_names_may_be_written_in_capitals():
    assert recipes.make({"task": "t", "type": "Q4_0"}).type == "q4_0"


def test_a_task_is_needed():
    with pytest.raises(UsageError, match="task: is missing"):
        recipes.make({})


@pytest.mark.parametrize(
    ("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5), ("32:64", 0.5)]
)
def test_a_pattern_fixes_the_sparsity(pattern, sparsity):
    assert recipes.make({"task": "medqa", "pattern": pattern}).sparsity == sparsity


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2-4", "two", "2:4:8", "4:4"])
def test_patterns_that_make_no_sense(pattern):
    with pytest.raises(UsageError, match="N:M"):
        recipes.make({"task": "medqa", "pattern": pattern})


def test_pattern_and_another_sparsity_contradict():
    with pytest.raises(UsageError, match="leave one out"):
        recipes.make({"task": "medqa", "pattern": "2:4", "sparsity": 0.6})


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        recipes.make({"task": "medqa", "sparsity": sparsity})


def test_flags_win_over_settings_over_file(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("task: medqa\nsamples: 1\nseed: 1\nlength: 64\n")
    made = load.resolve(str(file), ("samples=2", "seed=2"), {"seed": 3, "length": None})
    assert (made.samples, made.seed, made.length) == (2, 3, 64)


def test_a_pattern_flag_wins_over_a_files_sparsity():
    made = load.resolve("medqa-demo", (), {"pattern": "2:4"})
    assert (made.pattern, made.sparsity) == ("2:4", 0.5)


def test_a_files_sparsity_stays_when_the_flag_names_no_other():
    made = load.resolve(None, ("sparsity=0.3",), {"task": "t", "pattern": "unstructured"})
    assert made.sparsity == 0.3


def test_a_pattern_without_quotes_in_yaml_is_still_a_pattern(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("task: medqa\npattern: 2:4\n")
    assert load.load(str(file)).pattern == "2:4"
    assert load.resolve(None, ("pattern=4:8",), {"task": "t"}).pattern == "4:8"


def test_names_that_are_not_text(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("task: medqa\n1: 2\n")
    with pytest.raises(UsageError, match="mistakes"):
        load.load(str(file))


@pytest.mark.parametrize("text", ["samples", "=3", "samples=[1", "seed=2023-99-99"])
def test_bad_settings(text):
    with pytest.raises(UsageError, match="--set"):
        load.resolve(None, (text,), {"task": "medqa"})


def test_files_that_are_not_recipes(tmp_path: Path):
    with pytest.raises(InputError, match="No such file"):
        load.load(str(tmp_path / "none.yaml"))
    for content in ("[1, 2]", "a: [", "\x00"):
        path = tmp_path / "bad.yaml"
        path.write_text(content)
        with pytest.raises(InputError, match=r"bad\.yaml"):
            load.load(str(path))


def test_unknown_shipped_recipe_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean medqa-demo"):
        load.load("medqa-dem")


def test_flags_have_the_recipes_names_and_defaults():
    for flag, _, text in _OPTIONS:
        field = recipes.Recipe.model_fields[flag.removeprefix("--").replace("-", "_")]
        if field.default is not None and not field.is_required():
            assert f"[{field.default}]" in text


def test_shipped_finds_every_promised_task():
    promised = (
        "medqa medmcqa pubmedqa mmlu_med sciq arc_easy arc_challenge openbookqa piqa hellaswag "
        "boolq gsm8k"
    )
    assert set(promised.split()) <= set(shipped("tasks"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_loss": "2"}, "a percentage such as 2%"),
        ({"max_loss": "2%", "pattern": "2:4"}, "fixes the sparsity"),
        ({"allocation": "atp", "pattern": "2:4"}, "the same sparsity"),
        ({"allocation": "owls"}, "did you mean owl"),
        ({"allocation": "map"}, "go together"),
        ({"allocation_map": {"q_proj": 0.4}}, "go together"),
        ({"permute": True}, "set an N:M pattern"),
    ],
)
def test_options_that_do_not_fit_together(values, message):
    with pytest.raises(UsageError, match=message):
        recipes.make({"task": "medqa", **values})


def test_an_allocation_map_from_the_command_line():
    made = load.resolve(None, ("allocation=map", "allocation_map={q_proj: 0.4}"), {"task": "medqa"})
    assert made.allocation_map == {"q_proj": 0.4}


def test_an_unknown_target_is_one_mistake():
    with pytest.raises(UsageError) as caught:
        recipes.make({"task": "medqa", "target": "foo"})
    assert "Unknown target 'foo'" in str(caught.value)
    assert "Unknown type" not in str(caught.value)
