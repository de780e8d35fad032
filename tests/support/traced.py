"""Architectures that have no builder of their own, with random weights."""

import shutil

import torch
from transformers import AutoConfig, AutoModelForCausalLM

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
