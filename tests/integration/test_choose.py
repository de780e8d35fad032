"""The compiler that chooses: a goal in, a file that meets it out."""

import json

import pytest
from click.testing import CliRunner

from edgeprune import Recipe, build
from edgeprune.cli import cli
from edgeprune.experiments import front
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.pipeline import candidates, choose, latency
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.planning.budget import Candidate, Part
from edgeprune.recipe.goal import decided
from edgeprune.support.errors import EdgepruneError, InputError, UsageError
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Quiet
from tests.support.models import make_tiny
from tests.support.recipes import QUICK

# Of the tiny Llama with SmolLM2's words, nearly all is embedding.
CHOOSES = {**QUICK, "goal.choose": None, "training.enabled": True, "training.steps": 3}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache of its own, so that losses are measured here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def recipe_for(tiny_folder, rows_file, **options):
    return Recipe.of(CHOOSES, model=str(tiny_folder), task=str(rows_file), **options)


@pytest.mark.parametrize("runtime", ["edgeprune", "stock"])
def test_a_file_is_as_large_as_asked_and_no_larger(tiny_folder, rows_file, tmp_path, kept, runtime):
    size = {"edgeprune": "3.28MB", "stock": "3.68MB"}[runtime]
    recipe = recipe_for(tiny_folder, rows_file, size=size, runtime=runtime)
    made = build(recipe, tmp_path / "build", Quiet())
    manifest = made.manifest
    shipped = manifest.packed.packed_bytes if manifest.packed else made.artifact.stat().st_size
    asked = float(size[:-2]) * 1e6
    assert 0.9 * asked < shipped <= asked
    assert abs(shipped / manifest.choice.bytes - 1) < 0.03  # the head of so small a file weighs
    assert manifest.choice.loss == pytest.approx(sum(manifest.choice.losses.values()))
    kinds = {row.storage.name for row in manifest.plan if len(row.shape) > 1}
    assert len(kinds) > 1
    if runtime == "stock":
        assert not any(":" in kind for kind in kinds)
        assert manifest.packed is None
    assert set(manifest.results.artifacts) == {"dense", "dense q4_0", "pruned"}
    assert set(manifest.results.rivals) == {"dense q4_0"}
    said = (tmp_path / "build/report.html").read_text()
    assert "Beside dense q4_0" in said
    assert f"size {size}" in said
    again = build(recipe, tmp_path / "build", Quiet())
    assert again.manifest == manifest  # nothing is chosen or trained twice
    assert {one.name: one.type for one in manifest.artifact.tensors} == {
        tensor.name: tensor.type.name for tensor in open_gguf(made.artifact).tensors
    }


@pytest.mark.parametrize("tied", [True, False])
def test_onnx_files_are_as_large_as_predicted(real_checkpoint, rows_file, tmp_path, kept, tied):
    """Scales take 32 bits there; an untied head has a type of its own."""
    model = make_tiny(real_checkpoint, tmp_path / "model", tie_word_embeddings=tied)
    made = build(recipe_for(model, rows_file, target="onnx"), tmp_path / "build", Quiet()).manifest
    assert made.packed.packed_bytes == pytest.approx(made.choice.bytes, rel=0.04)
    assert set(made.results.rivals) == {"dense int4"}


def test_a_size_that_cannot_be_had_names_the_smallest(tiny_folder, rows_file, tmp_path, kept):
    with pytest.raises(UsageError, match=r"--size 1MB is too small .* it takes \d\.\d MB"):
        build(recipe_for(tiny_folder, rows_file, size="1MB"), tmp_path / "build", Quiet())


def test_what_is_set_stays(tiny_folder, rows_file, tmp_path, kept):
    settings = {**CHOOSES, "artifact.embedding_type": "q8_0"}
    options = {"model": str(tiny_folder), "task": str(rows_file), "size": "5.25MB"}
    recipe = decided(Recipe.of(settings, **options))
    job, facts = choose.settle(open_job(recipe, Workspace(tmp_path, Quiet())))
    assert job.recipe.artifact.embedding_type == "q8_0"
    assert facts.bytes <= 5.25e6


@pytest.mark.parametrize("kept_back", [{"sparsity": 0.5}, {"pattern": "2:4"}, {"type": "q4_0"}])
def test_the_rest_is_chosen_around_what_is_set(tiny_folder, rows_file, tmp_path, kept, kept_back):
    recipe = recipe_for(tiny_folder, rows_file, size="4.5MB", **kept_back)
    manifest = build(recipe, tmp_path / "build", Quiet()).manifest
    matrices = [row for row in manifest.plan if len(row.shape) > 1 and "layers" in row.name]
    if "type" in kept_back:
        assert {row.storage.type for row in matrices} == {kept_back["type"].upper()}
        return
    pattern = kept_back.get("pattern", "unstructured")
    assert {(row.pattern, row.zeros / row.size) for row in matrices} == {(pattern, 0.5)}


def test_zeros_are_chosen_where_they_lose_less(tiny_folder, rows_file, tmp_path, kept, monkeypatch):
    """Each matrix has its own, under its own pattern, and they stand in the file."""
    monkeypatch.setattr(
        choose, "losses_of", lambda _job, rows: {
            name: {way: 0.1 if row.zeros else 1.0 for way, row in of.items()}
            for name, of in rows.items()
        },
    )  # fmt: skip
    recipe = recipe_for(tiny_folder, rows_file, size="3.4MB")
    manifest = build(recipe, tmp_path / "build", Quiet()).manifest
    found = {(row.pattern, round(row.zeros / row.size, 2)) for row in manifest.plan if row.zeros}
    assert found
    written = {row.name: row for row in manifest.artifact.tensors}
    for row in manifest.plan:
        if len(row.shape) > 1:
            assert written[row.stored_as].pruned == bool(row.zeros)
            assert written[row.stored_as].nonzeros <= row.size - row.zeros
    assert manifest.packed.packed_bytes == pytest.approx(manifest.choice.bytes, rel=0.03)


def test_the_default_chooses_and_explicit_settings_do_not():
    default = decided(Recipe.of(task="medqa"))
    assert (default.goal.choose, default.pruning.sparsity, default.training.enabled) == (
        True, 0.0, True,
    )  # fmt: skip
    assert default.training.budget == "134.4s"
    for explicit in ({"sparsity": 0.5}, {"pattern": "2:4"}, {"type": "q8_0"}, {"method": "wanda"}):
        recipe = decided(Recipe.of(task="medqa", **explicit))
        assert not recipe.goal.choose
        assert recipe.pruning.sparsity == 0.5
        assert not recipe.training.enabled
    for explicit, kept in (({"sparsity": 0.5}, ["zeros"]), ({"type": "q4_0"}, ["type"])):
        around = decided(Recipe.of(task="medqa", size="60MB", **explicit))
        assert around.goal.keep == kept
        assert around.goal.choose
        assert around.pruning.sparsity == (0.5 if kept == ["zeros"] else 0)
    both = decided(Recipe.of(task="medqa", size="60MB", recover_budget="3m", recover=True))
    assert both.goal.choose
    assert both.training.budget == "3m"
    assert decided(both) is both


def _quick():
    """The quick recipe's settings as words of a command line."""
    return [w for k, v in QUICK.items() if k != "goal.choose" for w in ("--set", f"{k}={v}")]


def test_a_plan_shows_the_front(tiny_folder, rows_file, kept):
    arguments = ["plan", "--task", str(rows_file), "--model", str(tiny_folder), "--size", "3.28MB"]
    words = _quick()
    shown = CliRunner().invoke(cli, [*arguments, *words])
    assert "< chosen" in shown.output
    found = json.loads(CliRunner().invoke(cli, [*arguments, *words, "--json"]).stdout)
    sizes, losses = zip(*found["choice"]["front"], strict=True)
    assert list(sizes) == sorted(sizes)
    assert list(losses) == sorted(losses, reverse=True)


def test_the_front_of_parts_falls_and_ends_with_the_smallest():
    def candidates(weight):
        return [Candidate(str(b), b * 1000.0, weight * 4.0**-b) for b in (2, 4, 8)]

    parts = [Part(f"t{i}", candidates(1 + i)) for i in range(6)]
    found = choose.front(parts)
    assert found[0].cost == 12_000
    losses = [one.loss for one in found]
    assert losses == sorted(losses, reverse=True)


def test_a_speed_is_chosen_by_files_that_were_timed(
    tiny_folder, rows_file, tmp_path, kept, monkeypatch
):
    monkeypatch.setattr(latency, "_PROCESSES", 1)
    recipe = decided(recipe_for(tiny_folder, rows_file, decode=1.0))
    job = open_job(recipe, Workspace(tmp_path, Quiet()))
    chosen, facts = choose.settle(job)
    assert facts.decode > 1
    assert facts.loss <= min(loss for _, loss in facts.front)  # any storage is fast enough
    again, same = choose.settle(job)
    assert same == facts  # nothing is timed twice
    assert again.recipe == chosen.recipe
    beyond = decided(recipe_for(tiny_folder, rows_file, decode=1e9))
    with pytest.raises(UsageError, match=r"--decode 1e\+09 is out of reach here: .* \d+ tokens/s"):
        choose.settle(open_job(beyond, Workspace(tmp_path, Quiet())))


def test_a_speed_on_another_device_is_chosen_by_a_file_of_its_costs(
    tiny_folder, rows_file, tmp_path, kept, monkeypatch
):
    monkeypatch.setattr(latency, "_PROCESSES", 1)
    file = tmp_path / "laptop.json"
    words = ["plan", "--model", str(tiny_folder), "--task", str(rows_file), "--decode", "1"]
    result = CliRunner().invoke(cli, [*words, *_quick(), "--save-costs", str(file)])
    assert result.exit_code == 0, result.output
    costs = read_json(file)
    for of in costs["seconds"].values():  # a device that is a hundred times as fast
        of.update({storage: seconds / 100 for storage, seconds in of.items()})
    write_json(file, costs | {"device": "a laptop"})

    recipe = decided(recipe_for(tiny_folder, rows_file, decode=1.0))
    _, here = choose.settle(open_job(recipe, Workspace(tmp_path, Quiet())))
    there = recipe.changed({"goal.costs": str(file)})
    _, facts = choose.settle(open_job(there, Workspace(tmp_path, Quiet())))
    assert facts.decode == pytest.approx(100 * here.decode)
    assert facts.device == "a laptop"

    first, *_ = costs["sizes"]
    for change, words in [
        ({"sizes": costs["sizes"] | {first: 1}}, "costs of another model"),
        ({"runtime": "stock"}, "has costs for runtime stock"),
        ({"seconds": costs["seconds"] | {first: {}}}, "has no cost of"),
        ({"schema": 99}, "reads 1"),
    ]:
        write_json(file, costs | change)
        with pytest.raises(EdgepruneError, match=words):
            choose.settle(open_job(there, Workspace(tmp_path, Quiet())))
    file.unlink()
    with pytest.raises(InputError, match="there is no file"):
        choose.settle(open_job(there, Workspace(tmp_path, Quiet())))


def test_costs_are_for_a_speed():
    with pytest.raises(UsageError, match="set decode, too"):
        Recipe.of({"goal.costs": "laptop.json"}, task="medqa")
    words = ["plan", "--task", "medqa", "--save-costs", "laptop.json"]
    for more in ((), ("--decode", "9", "--costs", "phone.json")):
        result = CliRunner().invoke(cli, [*words, *more])
        assert isinstance(result.exception, UsageError)
        assert "--decode 1" in result.exception.hint


def test_a_front_has_dense_types_beside_it(tiny_folder, rows_file):
    recipe = recipe_for(tiny_folder, rows_file)
    made = front.recipes(recipe, ("3.3MB", "3.7MB"), 0, Quiet())
    assert list(made) == [
        "3.3MB", "3.7MB", "dense-q8_0", "dense-q8_0-embedding-too", "dense-q5_0",
        "dense-q5_0-embedding-too", "dense-q4_0", "dense-q4_0-embedding-too",
    ]  # fmt: skip
    assert made["3.3MB"].goal.size == "3.3MB"
    assert made["dense-q4_0"].pruning.sparsity == 0
    assert {one.training.steps for one in made.values()} == {3}


def test_tables_are_timed_in_files_that_the_chosen_ones_resemble(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    """A file of plain types alone is stock llama.cpp's: its head runs in other kernels."""
    written = []
    monkeypatch.setattr(
        latency, "_write", lambda _job, inside, outside, _path: written.append((inside, outside))
    )
    monkeypatch.setattr(
        "runtime_tests.bench.bench", lambda paths, *_: {
            "rows": [{"artifact": name, "test": "tg64", "samples": [[10.0]]} for name in paths]
        },
    )  # fmt: skip
    job = open_job(recipe_for(tiny_folder, rows_file, decode=100), Workspace(tmp_path, Quiet()))
    rows, known = candidates.candidates(job), candidates.ways(job)
    found = latency.seconds_a_token(job, rows, known)
    behind = [inside for inside, _ in written[-3:]]
    assert len({outside for _, outside in written[-3:]}) == 3
    assert set(behind) == {known["q4_0:2+mask/64, 60% zeros"]}
    assert sum(of["q4_0"] for of in found.values()) == pytest.approx(0.1)
