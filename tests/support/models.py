"""Tiny models."""

from pathlib import Path

from edgeprune.models import Checkpoint


def make_small(folder: Path, **changes: object) -> Path:
    """A random two-block Llama with 512 words and no tokenizer, as a transformers folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    options = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    for parameter in model.parameters():  # large enough weights that logits differ clearly
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def make_tiny(tokenizer_from: Checkpoint, folder: Path, **changes: object) -> Path:
    """The same with the vocabulary and the tokenizer of another model, SmolLM2's."""
    make_small(folder, **{"vocab_size": 49152, **changes})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tokenizer_from.folder / name).read_bytes())
    return folder
