"""ONNX: graphs against transformers, zeros in the bytes, packed models, hostile files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from edgeprune import Recipe, build
from edgeprune.data.render import Renderer
from edgeprune.data.sources import load_split
from edgeprune.data.task import open_task
from edgeprune.formats.inspection import inspect
from edgeprune.formats.onnx import packed as onnx_packed
from edgeprune.formats.onnx import packing as onnx_packing
from edgeprune.formats.onnx.expansion import constants, expansion
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.weights import Weights
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.runtime.onnxruntime.loading import open_session
from edgeprune.runtime.onnxruntime.sparse import replace_products
from edgeprune.support.errors import CheckFailed, InputError, UsageError
from exporters.base import Model, StorageRequest
from exporters.onnx import weights as onnx_weights
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.exporting import dense_model, plan_as
from tests.support.onnx import IDS, METADATA, PRECISIONS, close, save
from tests.support.processes import run
from tests.support.recipes import QUICK
from tests.support.traced import SHAPE


@pytest.fixture
def dense_products(monkeypatch):
    """Only onnxruntime's own products."""
    monkeypatch.setenv("EDGEPRUNE_SPARSE", "0")


def transformers_logits(path: Path, folder: Path) -> np.ndarray:
    """What transformers gives with the weights that stand in the file."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stored = {t.name: torch.from_numpy(t.values().copy()) for t in OnnxFile(path).tensors}
    own = model.state_dict()
    model.load_state_dict({k: stored.get(k, v) for k, v in own.items()})
    if model.config.tie_word_embeddings:
        model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("kind", PRECISIONS)
def test_logits_are_those_of_the_stored_weights(
    kind, exported, tiny_folder, tmp_path, dense_products
):
    """With float activations, which integer products round to 8 bits otherwise."""
    folder = shutil.copytree(exported[kind].parent, tmp_path / "m")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    found = OnnxRuntime(folder / "model.onnx", 1)._run(IDS, 0)
    assert close(found, transformers_logits(exported[kind], tiny_folder), 2e-5)


@pytest.mark.parametrize("operators", ["ort", "portable"])
def test_step_by_step_is_all_at_once(pruned, operators, tmp_path):
    path = save(pruned, tmp_path / "model.onnx", METADATA, type="fp32", operators=operators)
    runner = OnnxRuntime(path, 1)
    whole = runner._run(IDS, 0).copy()
    runner._run(IDS[:3], 0)
    assert close(runner._run(IDS[3:], 3), whole[3:], 1e-5)
    runner._run(IDS[:2], 0)
    steps = [runner._run([token], 2 + i)[0].copy() for i, token in enumerate(IDS[2:])]
    assert close(np.stack(steps), whole[2:], 1e-5)


def test_sequences_side_by_side_are_each_their_own(exported):
    runner = OnnxRuntime(exported["fp32"], 1)
    other = [token + 1 for token in IDS]
    alone = [runner._run(ids, 0).copy() for ids in (IDS, other)]
    together = runner._run_rows([IDS[:-1], other[:-1]], 0).copy()
    last = runner._run_rows([IDS[-1:], other[-1:]], len(IDS) - 1)
    for row in (0, 1):
        assert close(together[row], alone[row][:-1], 1e-5)
        assert close(last[row], alone[row][-1:], 1e-5)


def test_the_portable_flavour_has_standard_operators_only(pruned, exported, tmp_path):
    path = save(pruned, tmp_path / "model.onnx", METADATA, type="fp16", operators="portable")
    onnx.checker.check_model(str(path), full_check=True)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    found, fused = OnnxRuntime(path, 1)._run(IDS, 0), OnnxRuntime(exported["fp16"], 1)._run(IDS, 0)
    assert close(found, fused, 1e-5)
    with pytest.raises(InputError, match="only float weights"):
        plan_as("onnx", pruned, StorageRequest("int8", operators="portable"))


_SHAPE = SHAPE | {"num_hidden_layers": 4}
_LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 10000.0,
}  # fmt: skip
CASES = {
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3 rope": ("llama", {"rope_parameters": _LLAMA3}),
    "tied head": ("llama", {"tie_word_embeddings": True}),
    "mistral with a window": ("mistral", {"sliding_window": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "smollm3": ("smollm3", {}),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 4, "num_hidden_layers": 7},
    ),
    "gemma3 with scaled rope": (
        "gemma3_text",
        {
            "head_dim": 16,
            "num_hidden_layers": 6,
            "sliding_window": 4,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3, part of the head": ("phi3", {"head_dim": 32, "partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize("operators", ["ort", "portable"])
@pytest.mark.parametrize("case", CASES)
def test_architectures_give_transformers_logits(case, operators, real_checkpoint, tmp_path):
    kind, options = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **_SHAPE | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "hf")
    shutil.copyfile(real_checkpoint.folder / "tokenizer.json", tmp_path / "hf" / "tokenizer.json")
    source = dense_model(open_checkpoint(str(tmp_path / "hf")))
    path = save(source, tmp_path / "out" / "model.onnx", type="fp32", operators=operators)
    with torch.no_grad():
        expected = model.eval()(torch.tensor([IDS])).logits[0].numpy()
    runner = OnnxRuntime(path, 1)
    assert close(runner._run(IDS, 0), expected, 2e-5)
    runner._run(IDS[:6], 0)
    assert close(runner._run(IDS[6:], 6), expected[6:], 2e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "no_such"}, "transformers cannot build the model"),
        ({"model_type": None}, "model_type"),
        ({"final_logit_softcapping": 30.0}, "does not support final_logit_softcapping"),
        ({"hidden_act": "gelu"}, "does not support the activation gelu"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope scaling 'longrope'"),
        ({"hidden_size": None}, "lacks hidden_size"),
    ],
)
def test_what_the_builder_does_not_know_is_refused(change, said, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | change
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        plan_as(
            "onnx", Model(folder, Weights([folder / "model.safetensors"])), StorageRequest("int8")
        )


@pytest.mark.parametrize("kind", PRECISIONS)
def test_zeros_are_in_the_bytes_and_the_metadata_counts_them(kind, exported, pruned):
    found = inspect(exported[kind])
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert found["sparse"]
    assert found["metadata"]["edgeprune.sparsity.pattern"] == "2:4"
    for name in pruned.pruned:
        kept = pruned.weights.read(name).numpy() != 0
        values = next(t for t in OnnxFile(exported[kind]).tensors if t.name == name).values()
        assert values.shape == kept.shape
        assert not values[~kept].any()
        assert tensors[name]["nonzeros"] == tensors[name]["declared_nonzeros"]
        assert (values.reshape(-1, 4) != 0).sum(axis=1).max() <= 2


def test_lost_zeros_fail_the_export_and_leave_no_model(pruned, tmp_path, monkeypatch):
    honest = onnx_weights.quantized

    def lossy(*what):
        codes, scales = honest(*what)
        return codes + 1, scales

    monkeypatch.setattr(onnx_weights, "quantized", lossy)
    with pytest.raises(CheckFailed, match="no longer zero in INT8"):
        save(pruned, tmp_path / "model.onnx", METADATA, type="int8")
    assert not list(tmp_path.iterdir())


def test_a_pattern_that_does_not_hold_fails(pruned, tmp_path):
    with pytest.raises(CheckFailed, match="pattern 1:4 along its inputs"):
        save(pruned, tmp_path / "model.onnx", replace(METADATA, pattern="1:4"), type="fp32")
    assert not list(tmp_path.iterdir())


def test_nan_weights_are_refused(tiny_folder, tmp_path):
    weights = load_file(tiny_folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(CheckFailed, match="NaN or infinite"):
        save(Model(tiny_folder, Weights([tmp_path / "nan.safetensors"])),
             tmp_path / "model.onnx", type="fp32")  # fmt: skip


@pytest.mark.parametrize("kind", PRECISIONS)
def test_packed_models_give_the_same_bits_in_stock_onnxruntime(
    kind, exported, tmp_path, dense_products
):
    folder = shutil.copytree(exported[kind].parent, tmp_path / "m")
    path, packed = folder / "model.onnx", folder / "model.packed.onnx"
    sizes = onnx_packed.pack(path, packed)
    assert sizes["packed_bytes"] == sum(p.stat().st_size for p in folder.glob("model.packed*"))
    most = {"fp32": 0.54, "fp16": 0.57, "int8": 0.63, "int4": 0.76}  # of the pruned tensors
    assert sizes["packed_tensor_bytes"] < most[kind] * sizes["tensor_bytes"]
    plain, other = OnnxRuntime(path, 1), OnnxRuntime(packed, 1)
    expected = plain._run(IDS, 0).copy()
    assert (other._run(IDS, 0) == expected).all()  # rebuilt by our loader
    other._session = onnxruntime.InferenceSession(str(packed), providers=["CPUExecutionProvider"])
    assert (other._run(IDS, 0) == expected).all()  # and by onnxruntime itself
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "expanded.onnx")
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "expanded.onnx.data"
    )
    onnxruntime.InferenceSession(str(packed), options, providers=["CPUExecutionProvider"])
    saved = onnx.load(folder / "expanded.onnx", load_external_data=False)
    assert not [node for node in saved.graph.node if node.op_type == "CumSum"]
    other._session = onnxruntime.InferenceSession(
        str(folder / "expanded.onnx"), providers=["CPUExecutionProvider"]
    )
    assert (other._run(IDS, 0) == expected).all()  # and once for good
    assert {t["name"]: t["nonzeros"] for t in inspect(path)["tensors"]} == {
        t["name"]: t["nonzeros"] for t in inspect(packed)["tensors"]
    }
    with pytest.raises(UsageError, match="already packed"):
        onnx_packed.pack(packed, tmp_path / "again.onnx")


def test_a_dense_model_is_not_worth_packing(tiny_folder, tmp_path):
    path = save(Model(tiny_folder, Weights([tiny_folder / "model.safetensors"])),
                tmp_path / "model.onnx", type="fp16")  # fmt: skip
    with pytest.raises(UsageError, match="too few zeros"):
        onnx_packed.pack(path, tmp_path / "model.packed.onnx")


@given(
    st.sampled_from([("float32", 32, 0), ("float16", 16, 0), ("uint8", 8, 128), ("uint8", 4, 8)]),
    st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_tensor_comes_back_from_its_packed_form(how, eights, zeros, seed):
    dtype, bits, zero = how
    random = np.random.default_rng(seed)
    array = random.integers(0, 256, (3, 8 * eights * np.dtype(dtype).itemsize), np.uint8)
    array = array.view(dtype)
    array[random.random(array.shape) < zeros] = zero * 17 if bits == 4 else zero
    packing, size = onnx_packing.smallest(array, bits, zero)
    mask, kept = onnx_packing.pack(array, packing)
    again = onnx_packing.unpack(onnx_packing.read_packing(packing.to_json()), mask, kept)
    assert again.tobytes() == array.tobytes()
    assert (0 if mask is None else mask.nbytes) + kept.nbytes == size


@given(
    st.sampled_from([(8, 128), (4, 8)]), st.integers(1, 7), st.booleans(), st.integers(1, 6),
    st.floats(0, 0.9), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_few_codes_stand_at_their_width_and_any_onnxruntime_restores_them(
    how, stored, masked, eights, zeros, seed
):
    (bits, zero), stored = how, min(stored, how[0] - 1)
    packing = onnx_packing.Packing("uint8", (3, 8 * eights), bits, zero, stored, masked)
    random = np.random.default_rng(seed)
    elements = random.choice(packing.codes, packing.count)
    elements[random.random(elements.shape) < zeros] = zero
    array = elements if bits == 8 else elements[::2] | elements[1::2] << 4
    array = array.reshape(packing.shape)
    found, size = onnx_packing.smallest(array, bits, zero)
    assert found.stored or size < packing.count * bits // 8  # elements as they are take more
    kept = int((elements != zero).sum()) if masked else packing.count
    assert size <= packing.mask_bytes() + packing.kept_bytes(kept)
    mask, kept = onnx_packing.pack(array, packing)
    assert (onnx_packing.unpack(packing, mask, kept) == array).all()
    # Named as what all expansions share begins.
    given_parts = [onnx.numpy_helper.from_array(kept, "p.kept")]
    if mask is not None:
        given_parts.append(onnx.numpy_helper.from_array(mask[:, None], "p.mask"))
    graph = onnx.helper.make_graph(
        expansion("p", packing), "g", [],
        [onnx.helper.make_tensor_value_info("p", onnx.TensorProto.UINT8, packing.shape)],
        [*given_parts, *constants()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert (session.run(None, {})[0] == array).all()


def test_onnxruntime_genai_runs_the_folder_as_it_is(real_checkpoint, tmp_path):
    """The same greedy tokens as transformers', by Microsoft's own loop and tokenizer."""
    genai = pytest.importorskip("onnxruntime_genai")
    save(dense_model(real_checkpoint), tmp_path / "m" / "model.onnx", type="fp32")
    model = genai.Model(str(tmp_path / "m"))
    tokenizer, ids = genai.Tokenizer(model), None
    ids = list(tokenizer.encode("The capital of France is"))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(ids) + 12)
    generator = genai.Generator(model, settings)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    found = list(generator.get_sequence(0))
    reference = load_model(real_checkpoint, torch.float32)
    expected = load_tokenizer(real_checkpoint)("The capital of France is", return_tensors="pt")
    out = reference.generate(**expected, max_new_tokens=12, do_sample=False)[0].tolist()
    assert found[: len(out)] == out[: len(found)]
    assert len(found) > len(ids)


def test_scores_equal_those_of_llama_cpp(real_checkpoint, dense_f32, tmp_path):
    path = save(dense_model(real_checkpoint), tmp_path / "model.onnx", type="fp32")
    task = open_task("mmlu_med")
    renderer = Renderer(task)
    rows = load_split(task).evaluation[:6]
    items = [
        {"prompt": renderer.prompt(row),
         "continuations": [renderer.answer(row, i) for i in range(len(row.choices))]}
        for row in rows
    ]  # fmt: skip
    items.append({"prompt": "", "continuations": ["Aspirin thins the blood."]})
    ours, other = OnnxRuntime(path, 2), LlamaCpp(dense_f32, 2)
    for mine, theirs in zip(ours.score(items), other.score(items), strict=True):
        assert [s["tokens"] for s in mine] == [s["tokens"] for s in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a["logprob"] == pytest.approx(b["logprob"], abs=0.02 * a["tokens"])
    prompts = ["The capital of France is"]
    assert ours.generate(prompts, 12) == other.generate(prompts, 12)
    text = " ".join(row.fields["question"] for row in rows) * 3
    mine, theirs = ours.perplexity(text, 512), other.perplexity(text, 512)
    assert mine["tokens"] == theirs["tokens"]
    assert mine["nats"] == pytest.approx(theirs["nats"], rel=1e-3)


def test_top_tokens_equal_transformers_on_real_prompts(real_checkpoint, tmp_path):
    path = save(dense_model(real_checkpoint), tmp_path / "model.onnx", type="fp32")
    runner, model = OnnxRuntime(path, 2), load_model(real_checkpoint, torch.float32)
    task = open_task("medqa")
    for row in load_split(task).evaluation[:4]:
        ids = runner.tokenize(Renderer(task).calibration_text(row))
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].numpy()
        found = runner._run(ids, 0)
        top = np.sort(expected, axis=1)
        clear = top[:, -1] - top[:, -2] > 0.001
        assert (found.argmax(1) == expected.argmax(1))[clear].all()


def test_a_whole_build_for_onnx(tiny_folder, rows_file, tmp_path):
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file), target="onnx", pack=True)
    assert recipe.artifact.type == "int8"
    found = build(recipe, tmp_path / "out")
    manifest = found.manifest
    pruned = manifest.results.artifacts["pruned"]
    assert found.artifact.name == "model.onnx"
    assert pruned.runtime == "onnxruntime"
    data = (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert pruned.file_bytes == data + found.artifact.stat().st_size
    assert manifest.artifact.bytes == data + found.artifact.stat().st_size
    assert len(manifest.artifact.pruned_tensors) == 14
    assert manifest.packed.file == "model.packed.onnx"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "onnxruntime opens it directly" in report
    assert pruned.sparse.tensors == 14
    if not shutil.which("nvidia-smi"):
        assert manifest.results.gpus["TensorRT"].not_run == "no GPU"
        assert "TensorRT was not run: no GPU" in report
    times = {p: p.stat().st_mtime_ns for p in found.folder.iterdir() if p.is_file()}
    assert build(recipe, tmp_path / "out").manifest == manifest
    assert {p: p.stat().st_mtime_ns for p in times} == times
    shown = run("inspect", str(found.artifact))
    assert shown.returncode == 0
    assert "DIFFERS" not in shown.stdout
    assert "model.layers.0.mlp.up_proj.weight" in shown.stdout
    int4 = build(recipe.changed({"artifact.type": "int4"}), tmp_path / "out", replace=True)
    assert int4.manifest.rounded_with_data == 14


def test_types_belong_to_their_target():
    assert Recipe.of(task="medqa", target="onnx").artifact.type == "int8"
    assert Recipe.of(task="medqa").artifact.type == "q8_0"
    for wrong in ({"target": "onnx", "type": "q8_0"}, {"type": "int8"}):
        with pytest.raises(UsageError, match="Unknown type"):
            Recipe.of(task="medqa", **wrong)


def linear_model(tmp_path: Path, **tensor: object) -> Path:
    """One product with a weight of another's making."""
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    for key, value in tensor.items():
        if key == "external":
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for name, text in value.items():
                weight.external_data.add(key=name, value=text)
        else:
            weight.ClearField(key)
            getattr(weight, key).extend(value)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_any_onnx_model_can_be_inspected(tmp_path):
    found = inspect(linear_model(tmp_path))
    assert not found["sparse"]
    assert found["tensors"][0] | {"bytes": 0} == {
        "name": "w", "type": "FP32", "shape": [2, 4], "bytes": 0, "nonzeros": 8, "sparsity": 0.0,
        "declared_nonzeros": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"external": {"location": "../outside"}}, "outside the model's folder"),
        ({"external": {"location": "/etc/passwd"}}, "outside the model's folder"),
        ({"external": {"location": "gone.data"}}, "gone.data is not in the same folder"),
        ({"external": {"location": "d", "offset": "0", "length": "999"}}, "truncated"),
        ({"external": {"location": "d", "offset": "-1"}}, "truncated"),
        ({"external": {"location": "d", "offset": "x"}}, "not a number"),
        (
            {"external": {"location": "d", "length": "8"}},
            "has 8 bytes, the wrong size for the shape",
        ),
        ({"dims": [4, -2]}, "has the invalid shape"),
        ({"dims": [4, 1 << 40]}, "damaged|reshape"),
    ],
)
def test_weights_that_are_not_what_a_file_says_are_refused(tensor, said, tmp_path):
    (tmp_path / "d").write_bytes(bytes(32))
    with pytest.raises(InputError, match=said):
        inspect(linear_model(tmp_path, **tensor))


def test_a_graph_that_runs_in_circles_is_inspected_without_following_it(tmp_path):
    path = linear_model(tmp_path)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Cast", ["w"], ["w"], to=TensorProto.FLOAT))
    path.write_bytes(model.SerializeToString())
    assert inspect(path)["tensors"][0]["shape"] == [2, 4]


@pytest.mark.parametrize("change", [{"K": 1 << 50}, {"K": 128}, {"block_size": 0}, {"bits": 3}])
def test_lies_about_quantisation_are_refused(change, exported, tmp_path):
    folder = shutil.copytree(exported["int8"].parent, tmp_path / "m")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    for attribute in node.attribute:
        if attribute.name in change:
            attribute.i = change[attribute.name]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="damaged"):
        inspect(folder / "model.onnx")


def test_files_that_are_no_models_are_refused(tmp_path, exported):
    for content in (b"", b"GGUF" * 100, b"\xff" * 64, exported["fp32"].read_bytes()[:-9]):
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError):
            inspect(path)
        with pytest.raises((RuntimeError, InputError)):
            OnnxRuntime(path, 1)
    done = run("inspect", str(tmp_path / "broken.onnx"))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_lies_about_packing_are_refused(exported, tmp_path):
    folder = shutil.copytree(exported["int8"].parent, tmp_path / "m")
    packed = folder / "model.packed.onnx"
    onnx_packed.pack(folder / "model.onnx", packed)
    honest = onnx.load(packed, load_external_data=False)
    lies = ['{"dtype": "uint8", "shape": [1], "bits": 8, "zero": 128}', "[]", "{", "9" * 5000]
    codes = '{"dtype": "uint8", "shape": [64, 2, 32], "bits": 8, "zero": 128, '
    lies += [codes + f'"stored": {bits}}}' for bits in ("8", "-1", "true", "9" * 15)]
    lies += [codes + '"masked": 1}', codes + '"masked": false}', codes + '"more": 1}']
    for lie in lies:
        for tensor in honest.graph.initializer:
            for entry in tensor.metadata_props:
                if entry.key == "edgeprune.packing":
                    entry.value = lie
        packed.write_bytes(honest.SerializeToString())
        with pytest.raises(InputError, match="damaged"):
            inspect(packed)
        with pytest.raises((InputError, RuntimeError)):
            open_session(packed, onnxruntime.SessionOptions())


def test_scales_in_the_graph_without_numbers_are_refused(exported, tmp_path):
    """Found by benchmarks/fuzz.py."""
    folder = shutil.copytree(exported["int4"].parent, tmp_path / "m")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    scales = next(t for t in model.graph.initializer if t.name == node.input[2])
    scales.ClearField("external_data")
    scales.ClearField("data_location")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    graph, arrays = onnx_packed.without_expansions(OnnxFile(folder / "model.onnx"))
    with pytest.raises(InputError, match="is damaged"):
        replace_products(graph, arrays, {node.input[1]}, 1)


def test_names_that_are_no_text_are_refused(exported, tmp_path):
    """Found by benchmarks/fuzz.py: protobuf hands out bytes where a name is not UTF-8."""
    name = b"model.layers.0.self_attn.q_proj"
    data = exported["int8"].read_bytes()
    assert name in data
    (tmp_path / "m.onnx").write_bytes(data.replace(name, b"\xff" * len(name)))
    with pytest.raises(InputError, match="not UTF-8"):
        OnnxFile(tmp_path / "m.onnx")


def test_places_that_no_file_can_have_are_refused(exported, tmp_path):
    """Found by benchmarks/fuzz.py."""
    data = exported["int8"].read_bytes().replace(b"model.onnx.data", b"model.onn\0.data")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match="needs its weights file"):
        OnnxFile(tmp_path / "m.onnx")


def test_other_weights_under_the_same_graph_are_packed_anew(tiny_folder, rows_file, tmp_path):
    """The graph's file says nothing of the weights beside it: its hash alone is no key."""
    rows = tmp_path / "rows.jsonl"
    lines = rows_file.read_text().splitlines(keepends=True)
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows), target="onnx", type="fp16",
                       pack=True, method="wanda")  # fmt: skip
    weights = []
    for kept in (lines, lines[40:]):
        rows.write_text("".join(kept))
        build(recipe, tmp_path / "out")
        weights.append((tmp_path / "out" / "model.onnx.data").read_bytes())
        plain, packed = (
            OnnxRuntime(tmp_path / "out" / name, 1)._run(IDS, 0)
            for name in ("model.onnx", "model.packed.onnx")
        )
        assert close(plain, packed, 1e-6)
    assert weights[0] != weights[1]
