"""The transformers target: a folder that plain transformers and lm-eval open, zeros proven."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

import exporters
from edgeprune.formats.inspection import inspect
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.safetensors import METADATA, read_folder
from edgeprune.formats.weights import Weights, weight_files
from edgeprune.models import open_checkpoint
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.matrix import Pruning
from edgeprune.support.errors import CheckFailed, InputError, UsageError
from exporters.base import Model, StorageRequest
from exporters.transformers import export as module
from exporters.transformers.write import write_weights
from tests.support.exporting import Counter, dense_model, export_as
from tests.support.models import make_tiny
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return open_checkpoint(str(tiny_folder))


@pytest.fixture(scope="module")
def pruned(tiny, tmp_path_factory):
    """With a tokenizer, which a folder that transformers opens has."""
    mixed = Pruning("wanda", FusionRule("mix"))
    return prune_uniformly(tiny, streams_of(2), mixed, tmp_path_factory.mktemp("pruned"))


def about(pattern="unstructured"):
    return SparsityMetadata(pattern, 0.5, "wanda", "mix", "medqa", {"a": 1}, "0" * 64)


def as_model(pruned):
    names = frozenset(record.name for record in pruned.records)
    return Model(pruned.base.folder, pruned.weights(), names)


@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f16", torch.float16),
                                             ("bf16", torch.bfloat16)])  # fmt: skip
def test_every_tensor_comes_back_in_the_type_that_was_asked_for(tiny, tmp_path, kind, dtype):
    counter = Counter()
    artifact = export_as(
        "transformers", dense_model(tiny), StorageRequest(kind), tmp_path / "m", None, "t", counter
    )
    given, found = tiny.weights(), Weights(weight_files(tmp_path / "m"))
    assert sorted(found.names()) == sorted(given.names())
    for name in given.names():
        assert torch.equal(found.read(name), given.read(name).to(dtype))
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == str(dtype)[6:]
    assert (
        counter.steps
        == exporters.get("transformers").plan(dense_model(tiny), StorageRequest(kind)).steps
    )
    assert {file.name for file in artifact.files} == {p.name for p in (tmp_path / "m").iterdir()}
    assert artifact.metadata is None
    assert not (tmp_path / "m" / METADATA).exists()


def test_plain_transformers_opens_it_without_edgeprune(pruned, tmp_path):
    artifact = export_as(
        "transformers", as_model(pruned), StorageRequest("bf16"), tmp_path / "m", about()
    )
    script = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
AutoTokenizer.from_pretrained(sys.argv[1])
assert model.dtype == torch.bfloat16
zeros = sum(int((p == 0).sum()) for n, p in model.named_parameters() if "proj" in n)
print(zeros, model(torch.tensor([[1, 2, 3]])).logits.isfinite().all().item())
assert not any(name.startswith("edgeprune") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "m"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = [fact for fact in artifact.tensors if fact.pruned]
    zeros = sum(fact.shape[0] * fact.shape[1] - fact.nonzeros for fact in facts)
    assert done.stdout.split() == [str(zeros), "True"]
    assert len(facts) == 14
    found = read_folder(tmp_path / "m")
    assert found == artifact.metadata
    assert found.nonzeros == {fact.name: fact.nonzeros for fact in facts}


def test_inspect_counts_what_an_independent_reader_counts(pruned, tmp_path):
    export_as("transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about())
    found = inspect(tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", framework="numpy") as file:
        counted = {name: int(np.count_nonzero(file.get_tensor(name))) for name in file.keys()}  # noqa: SIM118
    assert {t["name"]: t["nonzeros"] for t in found["tensors"]} == counted
    declared = {t["name"]: t["declared_nonzeros"] for t in found["tensors"]}
    assert {n: c for n, c in declared.items() if c is not None} == read_folder(
        tmp_path / "m"
    ).nonzeros
    assert found["sparse"]


def test_shards_are_those_that_transformers_reads(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    wanted = StorageRequest("f32")
    rows = exporters.get("transformers").plan(dense_model(tiny), wanted).tensors
    for file in tiny.folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    write_weights(tmp_path, tiny.weights(), rows, "test", lambda: None, shard="100KB")
    files = weight_files(tmp_path)
    assert len(files) > 2
    assert not (tmp_path / "model.safetensors").exists()
    whole = AutoModelForCausalLM.from_pretrained(tiny.folder).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_a_second_export_takes_the_place_of_the_first(tiny, pruned, tmp_path):
    export_as("transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about())
    export_as("transformers", dense_model(tiny), StorageRequest("f16"), tmp_path / "m")
    assert Weights(weight_files(tmp_path / "m")).dtype("model.norm.weight") == "F16"
    assert read_folder(tmp_path / "m") is None
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_lost_zero_fails_the_export_and_leaves_nothing(pruned, tmp_path, monkeypatch):
    def spoiled(folder, weights, *more):
        write_weights(folder, pruned.base.weights(), *more)

    monkeypatch.setattr(module, "write_weights", spoiled)
    with pytest.raises(CheckFailed, match="pruned weights are no longer zero"):
        export_as("transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about())
    assert not list(tmp_path.iterdir())


def test_a_pattern_that_does_not_hold_fails_the_export(pruned, tmp_path):
    with pytest.raises(CheckFailed, match="is not 2:4 along its inputs"):
        export_as(
            "transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about("2:4")
        )


def test_weights_beyond_float16_are_refused_by_name(real_checkpoint, tmp_path):
    folder = make_tiny(real_checkpoint, tmp_path / "big", vocab_size=512)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = dense_model(open_checkpoint(str(folder)))
    with pytest.raises(CheckFailed, match=r"model\.norm\.weight holds values that are not finite"):
        export_as("transformers", model, StorageRequest("f16"), tmp_path / "m")
    export_as("transformers", model, StorageRequest("bf16"), tmp_path / "m")


def test_what_can_not_be_exported_is_refused_before_any_work(tiny, tmp_path):
    wanted = StorageRequest("bf16", (("nothing", "f32"),))
    with pytest.raises(UsageError, match="matches no tensor"):
        exporters.get("transformers").plan(dense_model(tiny), wanted)
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny.folder.iterdir():
        if not file.name.startswith(("tokenizer", "vocab")):
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="holds no tokenizer"):
        exporters.get("transformers").plan(Model(bare, tiny.weights()), StorageRequest("bf16"))


def test_a_damaged_or_newer_metadata_file_is_refused(pruned, tmp_path):
    export_as("transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about())
    place = tmp_path / "m" / METADATA
    good = json.loads(place.read_text())
    for text, says in (
        (json.dumps(good | {"schema": 2}), "has schema 2"),
        (json.dumps(good | {"nonzeros": {"a": "b"}}), "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
    ):
        place.write_text(text)
        with pytest.raises(InputError, match=says):
            inspect(tmp_path / "m")


def test_lm_eval_scores_it_as_its_own_transformers_model(pruned, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance
    from transformers import AutoModelForCausalLM

    export_as("transformers", as_model(pruned), StorageRequest("f32"), tmp_path / "m", about())
    harness = huggingface.HFLM(pretrained=str(tmp_path / "m"), device="cpu", dtype="float32")
    prompt, answer = [7, 8, 9], [10, 11]
    harness.tok_encode = lambda text, **_: {"a": prompt, "b": answer}[text]
    asked = Instance("loglikelihood", {}, ("a", "b"), 0)
    (logprob, _), *_ = harness._loglikelihood_tokens([(asked.args, prompt, answer)])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    assert logprob == pytest.approx((logits[2, 10] + logits[3, 11]).item(), rel=1e-4)
