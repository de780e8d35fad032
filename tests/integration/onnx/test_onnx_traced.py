"""Architectures that have no builder of their own: traced graphs against transformers."""

import importlib.util
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgeprune.models import open_checkpoint
from edgeprune.support.errors import InputError, MachineError
from exporters.base import StorageRequest
from tests.support.exporting import dense_model, plan_as

SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# Norms behind the matrices; attention with caps and windows, and biases and layers side by side.
KINDS = {
    "olmo2": {},
    "gemma2": {"head_dim": 16, "sliding_window": 4},
    "gpt_neox": {"num_key_value_heads": 4},
}


def random_model(kind: str, real_checkpoint, folder, **changes) -> AutoModelForCausalLM:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **SHAPE | KINDS.get(kind, {}) | changes)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    shutil.copyfile(real_checkpoint.folder / "tokenizer.json", folder / "tokenizer.json")
    return model.eval()


def test_what_cannot_be_traced_is_refused_before_pruning(real_checkpoint, tmp_path, monkeypatch):
    random_model("gpt2", real_checkpoint, tmp_path / "hf", num_key_value_heads=4)
    source = dense_model(open_checkpoint(str(tmp_path / "hf")))
    with pytest.raises(InputError, match="is used by a"):  # stored as (in, out)
        plan_as("onnx", source, StorageRequest("int8"))
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else known(name)
    )
    with pytest.raises(MachineError, match="onnxscript"):
        plan_as("onnx", source, StorageRequest("int8"))
