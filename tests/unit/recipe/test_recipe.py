from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeprune.cli import cli
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
        recipes.make(
            {"data": {"task": "medqa", "samples": 0, "lenght": 5}, "pruning.methd": "wanda",
             "artifact.type": "q8"}
        )  # fmt: skip
    text = str(caught.value)
    assert "'pruning.methd': did you mean pruning.method" in text
    assert "'data.lenght': did you mean data.length?" in text
    assert "data.samples" in text
    assert "q8_0" in text


def test_names_may_be_written_in_capitals():
    assert recipes.make({"data.task": "t", "artifact.type": "Q4_0"}).artifact.type == "q4_0"


def test_a_task_is_needed():
    with pytest.raises(UsageError, match=r"data\.task: is missing"):
        recipes.make({})


@pytest.mark.parametrize(
    ("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5), ("32:64", 0.5)]
)
def test_a_pattern_fixes_the_sparsity(pattern, sparsity):
    assert recipes.Recipe.of(task="medqa", pattern=pattern).pruning.sparsity == sparsity


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2-4", "two", "2:4:8", "4:4"])
def test_patterns_that_make_no_sense(pattern):
    with pytest.raises(UsageError, match="N:M"):
        recipes.Recipe.of(task="medqa", pattern=pattern)


def test_pattern_and_another_sparsity_contradict():
    with pytest.raises(UsageError, match="leave one out"):
        recipes.Recipe.of(task="medqa", pattern="2:4", sparsity=0.6)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        recipes.Recipe.of(task="medqa", sparsity=sparsity)


def test_flags_win_over_settings_over_file(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("data: {task: medqa, samples: 1, seed: 1}\ndata.length: 64\n")
    flags = {"data.seed": 3, "data.length": None}
    made = load.resolve(str(file), ("data.samples=2", "data.seed=2"), flags).data
    assert (made.samples, made.seed, made.length) == (2, 3, 64)


def test_a_pattern_flag_wins_over_a_files_sparsity():
    made = load.resolve("medqa-demo", (), {"pruning.pattern": "2:4"}).pruning
    assert (made.pattern, made.sparsity) == ("2:4", 0.5)


def test_a_files_sparsity_stays_when_the_flag_names_no_other():
    made = load.resolve(
        None, ("pruning.sparsity=0.3",), {"data.task": "t", "pruning.pattern": "unstructured"}
    )
    assert made.pruning.sparsity == 0.3


def test_a_pattern_without_quotes_in_yaml_is_still_a_pattern(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("data.task: medqa\npruning.pattern: 2:4\n")
    assert load.load(str(file)).pruning.pattern == "2:4"
    made = load.resolve(None, ("pruning.pattern=4:8",), {"data.task": "t"})
    assert made.pruning.pattern == "4:8"


def test_names_that_are_not_text(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("data.task: medqa\n1: 2\n")
    with pytest.raises(UsageError, match="mistakes"):
        load.load(str(file))


@pytest.mark.parametrize("text", ["data.samples", "=3", "data.samples=[1", "data.seed=2023-99-99"])
def test_bad_settings(text):
    with pytest.raises(UsageError, match="--set"):
        load.resolve(None, (text,), {"data.task": "medqa"})


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
    said = " ".join(CliRunner().invoke(cli, ["build", "--help"]).output.split())
    options = list(recipes.command_line_options())
    assert {"--task", "--sparsity", "--recover-budget"} <= {f"--{one.name}" for one in options}
    assert len({one.name for one in options}) == len(options)
    for option in options:
        assert f"--{option.name} " in said
        default = option.field.get_default()
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"[{default}]" in said


def test_options_and_dotted_names_are_the_same_settings():
    one = recipes.Recipe.of({"training.rank": 16}, task="medqa", recover=True, sparsity=0.6)
    other = recipes.make(
        {"data": {"task": "medqa"}, "pruning.sparsity": 0.6,
         "training": {"enabled": True, "rank": 16}}
    )  # fmt: skip
    assert one == other
    with pytest.raises(UsageError, match="did you mean sparsity"):
        recipes.Recipe.of(task="medqa", sparsty=0.5)
    with pytest.raises(UsageError, match=r"sets data to a value, but also sets data\.task"):
        recipes.make({"data": "medqa", "data.task": "medqa"})


def test_a_recipe_is_written_flat_and_read_again():
    values = {"artifact.type_map": {"ffn": "f16"}, "data.task": "medqa", "pruning.sparsity": 0.25}
    recipe = recipes.make(values)
    assert recipes.make(recipe.model_dump()) == recipe
    flat = recipes.flat(recipe)
    assert flat["artifact.type_map"] == [["ffn", "f16"]]  # as JSON: the order counts
    assert set(flat) - set(recipes.defaults()) == {"data.task"}
    assert recipe.changed({"pruning.sparsity": 0.5}).pruning.sparsity == 0.5


def test_shipped_finds_every_promised_task():
    promised = (
        "medqa medmcqa pubmedqa mmlu_med sciq arc_easy arc_challenge openbookqa piqa hellaswag "
        "boolq gsm8k"
    )
    assert set(promised.split()) <= set(shipped("tasks"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pruning.max_loss": "2"}, "a percentage such as 2%"),
        ({"pruning.max_loss": "2%", "pruning.pattern": "2:4"}, "fixes the sparsity"),
        ({"pruning.allocation.kind": "atp", "pruning.pattern": "2:4"}, "the same sparsity"),
        ({"pruning.allocation.kind": "owls"}, "did you mean owl"),
        ({"pruning.allocation.kind": "map"}, "go together"),
        ({"pruning.allocation.map": {"q_proj": 0.4}}, "go together"),
        ({"pruning.permute": True}, "set an N:M pattern"),
    ],
)
def test_options_that_do_not_fit_together(values, message):
    with pytest.raises(UsageError, match=message):
        recipes.make({"data.task": "medqa", **values})


def test_an_allocation_map_from_the_command_line():
    settings = ("pruning.allocation.kind=map", "pruning.allocation.map={q_proj: 0.4}")
    made = load.resolve(None, settings, {"data.task": "medqa"})
    assert made.pruning.allocation.map == {"q_proj": 0.4}


@pytest.mark.parametrize("text", ["'2:4'", "2:4"])  # YAML 1.1 reads the second in base 60
def test_an_allocation_map_takes_patterns(text):
    settings = ("pruning.allocation.kind=map", f"pruning.allocation.map={{q_proj: {text}, k: 0}}")
    made = load.resolve(None, settings, {"data.task": "medqa"})
    assert made.pruning.allocation.map == {"q_proj": "2:4", "k": 0.0}
    with pytest.raises(UsageError, match="0 < N < M"):
        recipes.make({"data.task": "medqa", "pruning.allocation.kind": "map",
                      "pruning.allocation.map": {"q_proj": "5:4"}})  # fmt: skip


@pytest.mark.parametrize("goal", [{"goal.size": "60MB"}, {"goal.decode": 200}])
def test_a_loss_is_a_goal_of_its_own(goal):
    with pytest.raises(UsageError, match=r"set one goal, not .* and max_loss 2%"):
        recipes.make({"data.task": "medqa", "pruning.max_loss": "2%", **goal})


def test_an_unknown_target_is_one_mistake():
    with pytest.raises(UsageError) as caught:
        recipes.Recipe.of(task="medqa", target="foo")
    assert "Unknown target 'foo'" in str(caught.value)
    assert "Unknown type" not in str(caught.value)
