"""NaN and infinity are no results: they fail where they are found, by name."""

import json

import pytest
from safetensors.torch import load_file, save_file

import runtime_tests
from edgeprune import Recipe
from edgeprune.models import open_checkpoint
from edgeprune.pipeline.job import rows_for
from edgeprune.pipeline.measure import measure_plan
from edgeprune.regression.thresholds import Thresholds
from edgeprune.support.errors import CheckFailed, UsageError
from edgeprune.support.progress import Quiet
from exporters.base import StorageRequest
from runtime_tests.child import start
from runtime_tests.run import _perplexity
from tests.support.exporting import dense_model, export_as
from tests.support.models import make_tiny
from tests.support.processes import run

NAN = float("nan")


def tiny_with(real_checkpoint, folder, **values):
    """A tiny model with one value in place of all of some tensors."""
    make_tiny(real_checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, value in values.items():
        tensors[name.replace("__", ".")].fill_(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def overflowing(real_checkpoint, tmp_path_factory):
    """Finite weights whose logits are not: the last norm blows everything up."""
    folder = tmp_path_factory.mktemp("overflow") / "tiny-overflow"
    return tiny_with(real_checkpoint, folder, model__norm__weight=3e38)


@pytest.mark.parametrize(
    ("target", "kind", "runtime"),
    [("gguf", "f32", "llama.cpp"), ("onnx", "fp32", "onnxruntime"), (None, "", "transformers")],
)
def test_a_row_that_gets_no_likelihood_is_named(
    overflowing, rows_file, tmp_path, target, kind, runtime
):
    path = overflowing
    if target:
        path = tmp_path / f"model.{target}"
        model = dense_model(open_checkpoint(str(overflowing)))
        export_as(target, model, StorageRequest(kind), path)
    recipe = Recipe.of(
        {"measurement.eval_rows": 2, "measurement.perplexity_tokens": 512}, task=str(rows_file)
    )
    data = rows_for(recipe)
    plan = measure_plan(recipe, data)
    with pytest.raises(CheckFailed) as failed:
        runtime_tests.quality(path, plan, Quiet().stage)
    said = str(failed.value)
    assert said.startswith(f"Row {data.evaluation[0].id}: the likelihood of an answer is NaN in ")
    assert runtime in said
    assert str(path) in said


def test_text_that_gets_no_likelihood_is_named(overflowing, rows_file):
    text = [json.loads(line)["question"] for line in rows_file.read_text().splitlines()]
    plan = runtime_tests.Plan([], "nats", 1, " ".join(text), 512, 1, 1, 1, 1, 2)
    with (
        start(overflowing, plan.threads) as child,
        pytest.raises(CheckFailed, match="Window 1 of the general text: its likelihood is NaN"),
    ):
        _perplexity(child, plan)


def test_limits_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UsageError, match="threshold nats is nan"):
        Thresholds(nats=NAN)
    done = run("plan", "--task", "medqa", "--set", "gates.max_nats_increase=.inf")
    assert done.returncode == 2
    assert "max_nats_increase" in done.stderr
