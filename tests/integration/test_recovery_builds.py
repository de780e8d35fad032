"""Recovery as a stage of a build: artifacts, manifests, reports, restarts."""

import shutil

import numpy as np
import pytest

from edgeprune import build
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.weights import Weights
from edgeprune.recipe.sections import Training
from edgeprune.recovery.budget import Budget
from edgeprune.recovery.state import TrainState


@pytest.mark.parametrize(("target", "kind"), [("gguf", "q4_0"), ("onnx", "int4")])
def test_a_build_holds_the_weights_that_were_trained(tiny_recipe, tmp_path, target, kind):
    recipe = tiny_recipe.changed(
        {
            "training.enabled": True,
            "training.steps": 5,
            "artifact.target": target,
            "artifact.type": kind,
        }
    )
    made = build(recipe, tmp_path / "out")
    assert made.manifest.training.finetune.rounded == 14
    file = next((tmp_path / "out").glob("work/recover-*/finetune/recovered.safetensors"))
    trained = Weights([file])
    tensors = inspected(made.artifact)
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        values = trained.read(name).numpy()
        assert any(np.array_equal(values, other) for other in tensors[values.shape])


def test_a_build_that_prunes_gradually(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed(
        {
            "training.enabled": True,
            "training.steps": 3,
            "pruning.sparsity": 0.7,
            "training.start_sparsity": 0.5,
            "training.ways": ["distill", "finetune"],
        }
    )
    made = build(recipe, tmp_path / "out")
    trained = made.manifest.training
    assert list(trained.rounds) == ["0.5", "0.6"]
    assert all(part.distill and part.finetune for part in trained.rounds.values())
    assert trained.finetune.steps == 3
    for tensor in made.manifest.pruned_tensors:
        assert tensor.sparsity == pytest.approx(0.7, abs=0.02)
    page = (tmp_path / "out/report.html").read_text()
    assert "pruned gradually, in 3 rounds: it was trained at 50%, 60% sparsity" in page
    assert "<h2>Recovery: finetune" in page
    assert "The dense baseline was not trained on the task" in page
    assert "% of the sequences came from the task" in page
    first = made.artifact.read_bytes()
    made.artifact.unlink()
    assert build(recipe, tmp_path / "out").artifact.read_bytes() == first
    assert not list((tmp_path / "out").rglob("trained"))
    shutil.rmtree(tmp_path / "out" / "work")
    (tmp_path / "out" / "work").mkdir()
    made = build(recipe, tmp_path / "out")
    assert made.artifact.read_bytes() == first


@pytest.mark.parametrize("how", [{"training.rank": 4}, {"training.selective": True}])
def test_builds_with_adapters_and_with_selective_updates(tiny_recipe, tmp_path, how):
    recipe = tiny_recipe.changed(
        {"training.enabled": True, "training.steps": 3, "artifact.type": "q4_0", **how}
    )
    made = build(recipe, tmp_path / "out")
    assert made.manifest.training.finetune.steps == 3
    assert made.manifest.training.finetune.rounded == (0 if "training.rank" in how else 14)
    tensors = [t for t in made.manifest.artifact.tensors if t.pruned]
    assert all(t.nonzeros <= 0.52 * np.prod(t.shape) for t in tensors)


def test_other_settings_leave_nothing_behind(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed(
        {
            "training.enabled": True,
            "training.steps": 2,
            "pruning.sparsity": 0.6,
            "training.start_sparsity": 0.5,
        }
    )
    build(recipe, tmp_path / "out")
    work = tmp_path / "out" / "work"
    assert [place.name for place in work.glob("round-*")] == ["round-0.500"]
    assert list(work.glob("recover-*"))
    build(recipe.changed({"training": Training()}), tmp_path / "out", replace=True)
    assert not [*work.glob("round-*"), *work.glob("recover-*"), *work.glob("trained")]


def test_weights_of_another_training_are_exported_anew(tiny_recipe, tmp_path, monkeypatch):
    """The same settings, but a time budget that came out otherwise."""
    training = {"training.enabled": True, "training.budget": "5s", "training.learning_rate": 1e-3}
    recipe, shas = tiny_recipe.changed(training), []
    for steps in (2, 3):  # the loss is looked at before and after, and the better end is kept
        planned = TrainState(steps=steps, points=1)
        monkeypatch.setattr(Budget, "plan", lambda *_, run=planned: run)
        monkeypatch.setattr(Budget, "plan_again", lambda *_: None)
        made = build(recipe, tmp_path / "out")
        assert made.manifest.training.finetune.planned_steps == steps
        shas.append(made.manifest.artifact.sha256)
        for place in (tmp_path / "out" / "work").glob("recover-*"):
            shutil.rmtree(place)
    assert shas[0] != shas[1]


def test_a_dense_model_can_be_trained_too(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed(
        {
            "training.enabled": True,
            "training.steps": 3,
            "pruning.sparsity": 0,
            "artifact.type": "q4_0",
            "artifact.rounding": "gptq",
        }
    )
    made = build(recipe, tmp_path / "out")
    assert made.manifest.training.finetune.rounded == 15  # the embedding, too
    assert made.manifest.artifact.sha256 != made.manifest.dense_artifact.sha256


def inspected(path):
    """Dequantised tensors of an artifact by shape."""
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    opened = OnnxFile(path) if path.suffix == ".onnx" else open_gguf(path)
    for tensor in opened.tensors:
        values = tensor.values()
        found.setdefault(values.shape, []).append(values)
        found.setdefault(values.T.shape, []).append(values.T)
    return found


def test_a_build_that_recovers(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed(
        {"training.enabled": True, "training.steps": 3, "training.ways": ["reconstruct", "distill"]}
    )
    made = build(recipe, tmp_path / "out")
    assert made.manifest.training.distill.steps == 3
    pruned_alone = build(recipe.changed({"training": Training()}), tmp_path / "plain")
    zeros = [
        [t.nonzeros for t in one.manifest.artifact.tensors if t.pruned]
        for one in (made, pruned_alone)
    ]
    assert zeros[0] == zeros[1]
    hashes = [one.manifest.artifact.sha256 for one in (made, pruned_alone)]
    assert hashes[0] != hashes[1]
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>Recovery: distill" in page
    assert "the kept weights were trained for 3 steps" in page
    assert "Reconstruction trained 4 submodules" in page
    assert pruned_alone.manifest.training is None
    used = set(made.manifest.data.task.calibration_rows)
    assert set(pruned_alone.manifest.data.task.calibration_rows) <= used
    assert not used & set(made.manifest.data.task.evaluation_rows)
