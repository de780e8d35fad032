"""NaN and infinity are no results: they fail where they are found, by name."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import runtime_tests
from edgeprune import Recipe
from edgeprune.data.loading import load_data
from edgeprune.engine import prune
from edgeprune.models import open_checkpoint
from edgeprune.pipeline.gates import failures
from edgeprune.pipeline.measure import measure_plan
from edgeprune.pruning.matrix import Pruning
from edgeprune.regression.compare import Thresholds
from edgeprune.support.errors import CheckFailed, InputError, UsageError
from edgeprune.support.files import json_text, read_json, write_json
from edgeprune.support.progress import Quiet
from exporters import get
from exporters.artifact import Storage
from runtime_tests.child import start
from runtime_tests.inputs import most_likely
from runtime_tests.run import _perplexity
from tests.conftest import Counter, dense_model, make_tiny, streams
from tests.test_cli import run

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
        get(target).export(model, Storage(kind), path, None, "test", Counter())
    recipe = Recipe(task=str(rows_file), eval_rows=2, perplexity_tokens=512)
    data = load_data(
        recipe.data.task,
        recipe.data.general,
        recipe.measurement.eval_rows,
        recipe.measurement.perplexity_tokens,
    )
    plan = measure_plan(recipe, data)
    with pytest.raises(CheckFailed) as failed:
        runtime_tests.quality(path, plan, Quiet().stage)
    said = str(failed.value)
    assert said.startswith(f"Row {data.evaluation[0].id}: the likelihood of an answer is NaN in ")
    assert runtime in said
    assert str(path) in said


def test_text_that_gets_no_likelihood_is_named(overflowing, rows_file):
    text = [json.loads(line)["question"] for line in rows_file.read_text().splitlines()]
    plan = runtime_tests.Plan([], "nats", 1, " ".join(text), 512, 1, 1, 1, 2)
    with (
        start(overflowing, plan.threads) as child,
        pytest.raises(CheckFailed, match="Window 1 of the general text: its likelihood is NaN"),
    ):
        _perplexity(child, plan)


def test_nothing_is_written_from_logits_that_are_not_finite():
    assert most_likely(np.array([1.0, 3.0, 2.0])) == 1
    for bad in (np.array([1.0, NAN, 2.0]), torch.tensor([0.0, NAN]), np.array([1.0, math.inf])):
        with pytest.raises(RuntimeError, match="logits hold NaN or infinity"):
            most_likely(bad)


def test_inputs_of_a_layer_that_are_not_finite_are_named(real_checkpoint, tmp_path):
    """A norm is not pruned, so that no check of pruned weights sees it."""
    name = "model.layers.1.input_layernorm.weight"
    folder = tiny_with(real_checkpoint, tmp_path / "tiny", **{name.replace(".", "__"): NAN})
    with pytest.raises(InputError, match=r"inputs of model\.layers\.1\.self_attn\.\w+\.weight"):
        prune(open_checkpoint(str(folder)), streams(2), Pruning(), tmp_path / "w", Quiet())


def test_pruning_that_gives_no_numbers_names_the_tensor(tiny_folder, tmp_path, monkeypatch):
    module = sys.modules["edgeprune.engine.prune"]  # its name is also that of a function
    monkeypatch.setattr(module, "prune_matrix", lambda weight, *_: weight / 0)
    with pytest.raises(CheckFailed, match=r"Pruning model\.layers\.0\.\S+ by wanda gave NaN"):
        prune(open_checkpoint(str(tiny_folder)), streams(2), Pruning(), tmp_path, Quiet())


def test_json_holds_no_bare_nan(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(CheckFailed, match=r"rows\.1\.samples\.0 = NaN"):
        write_json(path, {"rows": [{"samples": [1.0]}, {"samples": (NAN,)}]})
    assert not path.exists()
    with pytest.raises(CheckFailed, match="value = -infinity"):
        json_text(-math.inf)
    path.write_text('{"nats": NaN}')
    assert read_json(path) is None
    write_json(path, {"accuracy": None})
    assert read_json(path) == {"accuracy": None}


def test_nan_holds_no_gate():
    wrong = {"answers": {"correct": [True, False], "nats": [NAN, NAN]},
             "decode": {"samples": [NAN, NAN]}}  # fmt: skip
    right = {"answers": {"correct": [True, False], "nats": [1.0, 2.0]},
             "decode": {"samples": [1.0, 2.0]}}  # fmt: skip
    results = {"artifacts": {"dense": right, "pruned": wrong}, "difference": {}}
    recipe = Recipe(task="t", max_nats_increase=0.1, min_decode_speed=0.1)
    assert len(failures(recipe, results)) == 2


def test_limits_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UsageError, match="threshold nats is nan"):
        Thresholds(nats=NAN)
    done = run("plan", "--task", "medqa", "--set", "gates.max_nats_increase=.inf")
    assert done.returncode == 2
    assert "max_nats_increase" in done.stderr
