"""Families: the one place that knows architectures by name, and enough to add one."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from edgeprune.models import families, open_checkpoint
from edgeprune.models.families import by_model_type
from edgeprune.models.families.base import GATED, LLAMA_MATRICES, Family, Gguf, Onnx
from edgeprune.support.errors import InputError
from exporters.base import StorageRequest
from exporters.gguf.hyperparameters import read_config
from exporters.gguf.plan import plan_tensors
from exporters.onnx.decoder import read_decoder
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.exporting import Counter, dense_model, export_gguf, export_onnx, plan_as
from tests.support.gguf import changed, logits_of
from tests.support.paths import ROOT

HOME = ROOT / "edgeprune" / "models" / "families"
PACKAGES = ("edgeprune", "exporters", "runtime_tests")
# Of tokenizers, which GGUF names apart from architectures, though several are called the same.
NAMES_OF_TOKENIZERS = ROOT / "edgeprune" / "models" / "gguf_tokenizer.py"


def known_names() -> set[str]:
    """What architectures are called, in full and without numbers: gemma3_text, gemma3, gemma."""
    full = {*by_model_type(), *(family.gguf.name for family in families.FAMILIES)} - {""}
    return full | {re.match("[a-z]+", name).group() for name in full}


def constants(node: ast.AST | None) -> set[str]:
    found = ast.walk(node) if node else ()
    return {n.value for n in found if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def branches(tree: ast.AST, names: set[str]) -> list[int]:
    """Lines where code depends on an architecture's name: comparisons, cases, tables, prefixes."""
    lines = []
    for node in ast.walk(tree):
        told: set[str] = set()
        if isinstance(node, ast.Compare):
            told = constants(node)
        elif isinstance(node, ast.MatchValue):
            told = constants(node.value)
        elif isinstance(node, ast.Dict):
            told = {text for key in node.keys for text in constants(key)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith", "get"):
                told = {text for value in node.args for text in constants(value)}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.Tuple | ast.List | ast.Set
        ):
            told = {e.value for e in node.value.elts if isinstance(e, ast.Constant)}
        if told & names:
            lines.append(node.lineno)
    return lines


def test_no_code_outside_families_goes_by_the_name_of_an_architecture():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        if HOME not in path.parents and path != NAMES_OF_TOKENIZERS
        for line in branches(ast.parse(path.read_text(encoding="utf-8")), known_names())
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'gemma = config["model_type"] == "gemma3_text"',
        'kind if kind in ("phi3", "other") else ""',
        '"gemma" in kind',
        'KINDS = ("llama", "mistral")',
        'TABLE = {"qwen2": 1}',
        'kind.startswith("smollm")',
        'match kind:\n    case "gpt2":\n        pass',
    ],
)
def test_such_code_is_found(code):
    assert branches(ast.parse(code), known_names())


def test_every_file_is_registered_and_nothing_heavy_is_imported():
    files = {path.stem for path in HOME.glob("*.py")} - {"__init__", "base"}
    assert files == set(families._FILES)
    heavy = {"torch", "transformers", "llama_cpp", "onnx", "onnxruntime", "gguf"}
    code = f"import sys, edgeprune.models.families; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", by_model_type())
def test_what_config_json_leaves_out_is_what_transformers_assumes(kind):
    family, config = by_model_type()[kind], AutoConfig.for_model(kind)
    named = ("hidden_activation", "hidden_act", "activation_function")
    assert family.tied == config.tie_word_embeddings
    assert family.activation == next(getattr(config, n) for n in named if getattr(config, n, None))


SHAPE = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def random_model(kind: str, tokenizer_from: Path, folder: Path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **SHAPE), dtype=torch.float32
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_from / name, folder / name)
    return model.eval()


def test_a_family_is_all_that_a_new_architecture_takes(real_checkpoint, tmp_path, monkeypatch):
    """Seed-OSS, which no file here is about, in both runtimes."""
    new = Family(
        model_types=("seed_oss",),
        feed_forward=GATED,
        gguf=Gguf("seed_oss"),
        onnx=Onnx(LLAMA_MATRICES),
    )
    model = random_model("seed_oss", real_checkpoint.folder, tmp_path / "hf")
    source = dense_model(open_checkpoint(str(tmp_path / "hf")))
    with pytest.raises(InputError, match="does not support the architecture 'seed_oss'"):
        read_config(tmp_path / "hf")
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, new))
    export_gguf(source, StorageRequest("f32"), tmp_path / "m.gguf", None, "t", Counter())
    export_onnx(source, StorageRequest("fp32"), tmp_path / "o" / "m.onnx", None, "t", Counter())
    ids = [5 + (i * 37) % 250 for i in range(32)]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    in_llama_cpp = logits_of(LlamaCpp(tmp_path / "m.gguf", 2), ids)
    in_onnxruntime = OnnxRuntime(tmp_path / "o" / "m.onnx", 1)._run(ids, 0)
    for found in (in_llama_cpp, in_onnxruntime):
        assert abs(found - expected).max() / abs(expected).max() < 2e-3


def test_gemma_is_tied_though_its_configuration_does_not_say(real_checkpoint, tmp_path):
    """The hub's Gemma 3 leaves it out; llama.cpp's mixes give a tied embedding more bits."""
    random_model("gemma3_text", real_checkpoint.folder, tmp_path)
    folder = changed(tmp_path, tmp_path, tie_word_embeddings=True)
    stated = plan_tensors(
        dense_model(open_checkpoint(str(folder))), *read_config(folder), StorageRequest("q4_k_m")
    )
    text = (folder / "config.json").read_text().replace('"tie_word_embeddings": true', '"x": 0')
    (folder / "config.json").write_text(text)
    found = plan_tensors(
        dense_model(open_checkpoint(str(folder))), *read_config(folder), StorageRequest("q4_k_m")
    )
    assert [t.type for t in found] == [t.type for t in stated]
    assert read_decoder(folder).tied
    assert found[0].name == "token_embd.weight"
    assert found[0].type == GGMLQuantizationType.Q8_0  # Q6_K's neighbour for rows of 64


@pytest.mark.parametrize(
    ("lost", "added", "said"),
    [
        ("model.layers.1.mlp.gate_proj.weight", None, "has no tensor model.layers.1.mlp.gate_proj"),
        (None, "model.layers.0.self_attn.q_norm.weight", "architecture llama has no place for"),
        (None, "model.layers.0.input_layernorm.bias", "architecture llama has no place for"),
    ],
)
def test_the_onnx_planner_wants_the_tensors_of_the_family(lost, added, said, tiny_folder, tmp_path):
    folder = changed(tiny_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(lost, None)
    save_file(tensors | ({added: torch.ones(16)} if added else {}), folder / "model.safetensors")
    with pytest.raises(InputError, match=said):
        plan_as("onnx", dense_model(open_checkpoint(str(folder))), StorageRequest("fp32"))
