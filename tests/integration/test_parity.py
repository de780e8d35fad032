"""Replies of an artifact, held against transformers with the artifact's own weights."""

import json
from dataclasses import replace

import pytest

import exporters
from edgeprune import Recipe, build
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.pipeline.job import dense_model, open_job
from edgeprune.pipeline.parity import TIE, compare
from edgeprune.pipeline.speech import speech
from edgeprune.pipeline.workspace import Workspace
from edgeprune.support.errors import CheckFailed
from edgeprune.support.progress import Quiet
from exporters.base import Model, StorageRequest
from tests.support.exporting import export_as
from tests.support.recipes import QUICK


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return open_job(
        Recipe.of(QUICK | {"data.chat": "auto"}, task="medqa"),
        Workspace(tmp_path_factory.mktemp("run"), Quiet()),
    )


@pytest.fixture(scope="module")
def prompts(job):
    found = [one.ids for one in speech(job).prompts[:3]]
    assert found
    return found


@pytest.mark.parametrize(("target", "kind"), [("gguf", "q4_0"), ("onnx", "int4")])
def test_the_real_model_replies_as_transformers_does(target, kind, job, prompts, tmp_path):
    model, exporter = dense_model(job.checkpoint), exporters.get(target)
    path = tmp_path / exporter.artifact
    export_as(target, model, StorageRequest(type=kind), path)
    found = compare(replace(job, exporter=exporter), model, path, prompts)
    assert found["turns"] == len(prompts)
    assert found["tokens"] > 20 * len(prompts)
    assert found["apart"] <= 0.05 * found["tokens"]
    assert found["tie"] == TIE


def test_rows_in_another_order_are_found_out(job, prompts, tmp_path):
    """Queries whose rotated halves are swapped, as a wrong exporter would write them."""
    model = dense_model(job.checkpoint)
    name = "model.layers.{}.self_attn.q_proj.weight"
    wrong = {name.format(n): model.weights.read(name.format(n)).flip(0) for n in range(30)}
    save_tensors(tmp_path / "wrong.safetensors", {n: w.contiguous() for n, w in wrong.items()})
    files = [*job.checkpoint.weight_files, tmp_path / "wrong.safetensors"]
    path = tmp_path / "model.gguf"
    export_as("gguf", Model(model.folder, Weights(files), gguf=model.gguf),
              StorageRequest(type="q8_0"), path)  # fmt: skip

    class Right:
        """Transformers with the weights that were meant."""

        def reopen(self, _path, _model):
            from edgeprune.models.loading import load_model

            return load_model(job.checkpoint)

    with pytest.raises(CheckFailed, match="does not reply as transformers does"):
        compare(replace(job, exporter=Right()), model, path, prompts)


def test_a_build_says_it_and_removes_what_fails(tiny_folder, rows_file, tmp_path, monkeypatch):
    talks = tmp_path / "talks.jsonl"
    turns = [
        [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": "A number"}]
        for n in range(40)
    ]
    talks.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    recipe = Recipe.of(
        QUICK | {"data.chat": str(talks)}, model=str(tiny_folder), task=str(rows_file), sparsity=0.5
    )
    made = build(recipe, tmp_path / "build", Quiet())
    replies = made.manifest.artifact.replies
    assert replies.turns == 10
    assert replies.apart == 0
    said = (tmp_path / "build/report.html").read_text()
    assert "Held against transformers with the file" in said
    with monkeypatch.context() as large:
        large.setattr("edgeprune.pipeline.parity._float32", lambda _job: 1 << 60)
        unread = build(recipe, tmp_path / "large", Quiet())
        assert unread.manifest.artifact.replies is None
    monkeypatch.setattr("edgeprune.pipeline.parity.distances", lambda *_: [9.0])
    with pytest.raises(CheckFailed, match=r"by up to 9\.0 logits"):
        build(recipe, tmp_path / "other", Quiet())
    assert not (tmp_path / "other/model.gguf").exists()
    assert not (tmp_path / "other/manifest.json").exists()
