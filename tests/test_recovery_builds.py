"""Recovery as a stage of a build: artifacts, manifests, reports, restarts."""

import shutil

import numpy as np
import pytest

from edgeprune import Recipe, build
from edgeprune.cli.report import _manifests
from edgeprune.data.loading import load_data
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.weights import Weights
from edgeprune.models import open_checkpoint
from edgeprune.pipeline import sparsify
from edgeprune.recipe.schema import make
from edgeprune.recovery.budget import Budget
from edgeprune.recovery.state import TrainState
from edgeprune.support import distributed
from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.files import write_json
from edgeprune.support.progress import Quiet
from tests.test_pipeline import QUICK


@pytest.mark.parametrize(("target", "kind"), [("gguf", "q4_0"), ("onnx", "int4")])
def test_a_build_holds_the_weights_that_were_trained(
    tiny_folder, rows_file, tmp_path, target, kind
):
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=5,
                    target=target, type=kind, **QUICK)  # fmt: skip
    made = build(recipe, tmp_path / "out")
    assert made.manifest["recovery"]["finetune"]["rounded"] == 14
    file = next((tmp_path / "out").glob("work/recover-*/finetune/recovered.safetensors"))
    trained = Weights([file])
    tensors = inspected(made.artifact)
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        values = trained.read(name).numpy()
        assert any(np.array_equal(values, other) for other in tensors[values.shape])


def test_a_build_that_prunes_gradually(tiny_folder, rows_file, tmp_path):
    recipe = Recipe(
        model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=3, sparsity=0.7,
        recover_from=0.5, recover_by=["distill", "finetune"], **QUICK,
    )  # fmt: skip
    made = build(recipe, tmp_path / "out")
    recovery = made.manifest["recovery"]
    assert list(recovery["rounds"]) == ["0.5", "0.6"]
    assert all(set(part) == {"distill", "finetune"} for part in recovery["rounds"].values())
    assert recovery["finetune"]["steps"] == 3
    for tensor in made.manifest["pruned_tensors"]:
        assert tensor["sparsity"] == pytest.approx(0.7, abs=0.02)
    page = (tmp_path / "out/report.html").read_text()
    assert "Zeros came in 3 rounds: the model was trained at 50%, 60%" in page
    assert "<h2>Recovery: finetune" in page
    assert "The dense model beside it was not trained on the task" in page
    assert "% of the sequences from the task" in page
    first = made.artifact.read_bytes()
    made.artifact.unlink()
    assert build(recipe, tmp_path / "out").artifact.read_bytes() == first
    assert not list((tmp_path / "out").rglob("trained"))
    shutil.rmtree(tmp_path / "out" / "work")
    (tmp_path / "out" / "work").mkdir()
    made = build(recipe, tmp_path / "out")
    assert made.artifact.read_bytes() == first
    del made.manifest["recovery"]["finetune"]["task_share"]
    write_json(tmp_path / "out" / "manifest.json", made.manifest)
    with pytest.raises(InputError, match="older edgeprune"):
        _manifests((tmp_path / "out",))


@pytest.mark.parametrize("how", [{"recover_rank": 4}, {"recover_selective": True}])
def test_builds_with_adapters_and_with_selective_updates(tiny_folder, rows_file, tmp_path, how):
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=3,
                    type="q4_0", **how, **QUICK)  # fmt: skip
    made = build(recipe, tmp_path / "out")
    assert made.manifest["recovery"]["finetune"]["steps"] == 3
    assert made.manifest["recovery"]["finetune"]["rounded"] == (0 if "recover_rank" in how else 14)
    tensors = [t for t in made.manifest["artifact"]["tensors"] if t["pruned"]]
    assert all(t["nonzeros"] <= 0.52 * np.prod(t["shape"]) for t in tensors)


def test_other_settings_leave_nothing_behind(tiny_folder, rows_file, tmp_path):
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=2,
                    sparsity=0.6, recover_from=0.5, **QUICK)  # fmt: skip
    build(recipe, tmp_path / "out")
    work = tmp_path / "out" / "work"
    assert [place.name for place in work.glob("round-*")] == ["round-0.500"]
    assert list(work.glob("recover-*"))
    build(recipe.model_copy(update={"recover": False}), tmp_path / "out", replace=True)
    assert not [*work.glob("round-*"), *work.glob("recover-*"), *work.glob("trained")]


def test_weights_of_another_training_are_exported_anew(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    """The same settings, but a time budget that came out otherwise."""
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True,
                    recover_budget="5s", **QUICK)  # fmt: skip
    shas = []
    for steps in (2, 4):
        planned = TrainState(steps=steps, points=2)
        monkeypatch.setattr(Budget, "plan", lambda *_, run=planned: run)
        monkeypatch.setattr(Budget, "plan_again", lambda *_: None)
        made = build(recipe, tmp_path / "out")
        assert made.manifest["recovery"]["finetune"]["planned_steps"] == steps
        shas.append(made.manifest["artifact"]["sha256"])
        for place in (tmp_path / "out" / "work").glob("recover-*"):
            shutil.rmtree(place)
    assert shas[0] != shas[1]


def test_a_search_holds_trained_models_against_the_dense_one(
    tiny_folder, rows_file, tmp_path, monkeypatch
):
    from edgeprune.pipeline import max_loss

    seen = []

    def trial(recipe, *_args):
        seen.append((recipe.pruning.sparsity, recipe.training.enabled))
        nats = 4 + recipe.pruning.sparsity
        return {"accuracy": None, "near_chance": False, "nats_per_answer_token": {"value": nats},
                "answers": {"nats": [nats] * 12}}  # fmt: skip

    monkeypatch.setattr(max_loss, "trial", trial)
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True, max_loss="10%",
                    **QUICK)  # fmt: skip
    data = load_data(
        recipe.data.task,
        recipe.data.general,
        recipe.measurement.eval_rows,
        recipe.measurement.perplexity_tokens,
    )
    found, _ = max_loss.search(recipe, open_checkpoint(recipe.model.name), data, tmp_path, Quiet())
    assert found.dense == 4
    assert seen[0] == (0.0, False)
    assert all(recover for _, recover in seen[1:])


def test_a_dense_model_can_be_trained_too(tiny_folder, rows_file, tmp_path):
    recipe = Recipe(
        model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=3, sparsity=0,
        type="q4_0", rounding="feedback", **QUICK,
    )  # fmt: skip
    made = build(recipe, tmp_path / "out")
    assert made.manifest["recovery"]["finetune"]["rounded"] == 14
    assert made.manifest["artifact"]["sha256"] != made.manifest["dense_artifact"]["sha256"]


def inspected(path):
    """Dequantised tensors of an artifact by shape."""
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    opened = OnnxFile(path) if path.suffix == ".onnx" else open_gguf(path)
    for tensor in opened.tensors:
        values = tensor.values()
        found.setdefault(values.shape, []).append(values)
        found.setdefault(values.T.shape, []).append(values.T)
    return found


def test_a_build_that_recovers(tiny_folder, rows_file, tmp_path):
    recipe = Recipe(model=str(tiny_folder), task=str(rows_file), recover=True, recover_steps=3,
                    recover_by=["reconstruct", "distill"], **QUICK)  # fmt: skip
    made = build(recipe, tmp_path / "out")
    assert made.manifest["recovery"]["distill"]["steps"] == 3
    pruned_alone = build(recipe.model_copy(update={"recover": False}), tmp_path / "plain")
    zeros = [
        [t["nonzeros"] for t in one.manifest["artifact"]["tensors"] if t["pruned"]]
        for one in (made, pruned_alone)
    ]
    assert zeros[0] == zeros[1]
    hashes = [one.manifest["artifact"]["sha256"] for one in (made, pruned_alone)]
    assert hashes[0] != hashes[1]
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>Recovery: distill" in page
    assert "trained for 3 steps" in page
    assert "4 submodules were reconstructed" in page
    assert pruned_alone.manifest["recovery"] is None
    used = made.manifest["data"]["task"]["calibration_rows"]
    assert set(pruned_alone.manifest["data"]["task"]["calibration_rows"]) <= set(used)
    assert not set(used) & set(made.manifest["data"]["task"]["evaluation_rows"])


def test_a_recipe_in_terms_of_training():
    values = {"recover_task_share": 0.3, "recover_batch": 3, "recover_max_perplexity": 4}
    recipe = make({"task": "medqa", "recover": True, "recover_budget": "2m", "seed": 7} | values)
    how = sparsify._settings(recipe, "finetune")
    assert (how.answers, how.task_share, how.text_share) == (True, 0.3, 0.5)
    assert (how.batch, how.max_perplexity, how.seconds, how.seed) == (3, 4, 120, 7)
    assert not sparsify._settings(recipe, "distill").answers


def test_more_processes_than_sequences_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: (0, 4))
    recipe = make({"task": "medqa", "recover": True})
    with pytest.raises(UsageError, match="steps of 2 sequences for 4 processes") as raised:
        sparsify._refuse_idle_processes(recipe)
    assert "recover_batch=4" in str(raised.value.hint)
    for fine in ({"recover_batch": 4}, {"recover_by": ["reconstruct"]}):
        sparsify._refuse_idle_processes(recipe.model_copy(update=fine))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recover_from": 0.5}, "to a higher sparsity, given unstructured, 0.5"),
        ({"recover_rank": 8, "recover_selective": True}, "leave recover_rank out"),
        ({"sparsity": 0, "recover_by": "distill"}, "predicts as its teacher already"),
        ({"recover_rank": 8, "rounding": "feedback"}, "without recover_rank alone"),
        ({"recover_by": "finetune,distill"}, "in the order reconstruct, distill, finetune"),
        ({"recover_budget": "soon"}, "is not a time such as 90s"),
        ({"recover_by": "distil"}, "did you mean distill"),
        ({"recover_task_share": 0}, "finetune learns the task"),
        ({"recover": False, "recover_from": 0.4}, "recover_from is a setting of training: add"),
    ],
)
def test_recipes_that_make_no_sense(values, said):
    with pytest.raises(UsageError, match=said):
        make({"task": "medqa", "recover": True} | values)
