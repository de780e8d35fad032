"""Check a configuration, and write it as the keys that llama.cpp builds its graph from."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.models.families import Config, Family, by_model_type, head_dim
from edgeprune.support.errors import InputError
from exporters.config import load_known_config, require, sliding_layers
from exporters.gguf.rope import read_rope, write_rope

if TYPE_CHECKING:
    from gguf import GGUFWriter

_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)


def read_config(folder: Path) -> tuple[Config, Family]:
    """Read a checkpoint's configuration, and find its family.

    Raises:
        InputError: the exporter does not support the architecture or a feature of it.
    """
    known = {name: family for name, family in by_model_type().items() if family.gguf.name}
    config, family = load_known_config(folder, known, "GGUF")
    require(config, _REQUIRED, folder)
    kind = config["model_type"]
    rope = read_rope(config, head_dim(config))
    if rope.kind not in family.gguf.rope:
        raise InputError(
            f"llama.cpp does not support rope scaling '{rope.kind}' for {kind} models."
        )
    sliding_layers(config)
    if (activation := family.activation_of(config)) != family.activation:
        raise InputError(
            f"llama.cpp does not support {kind} models with the activation {activation}."
        )
    if problem := family.gguf.trap(config):
        raise InputError(f"llama.cpp does not support {kind} models with {problem}.")
    return config, family


def write_hyperparameters(writer: "GGUFWriter", config: Config, family: Family) -> None:
    """Write the keys that llama.cpp builds its graph from."""
    heads, asks_for = config["num_attention_heads"], family.gguf.asks_for
    writer.add_block_count(config["num_hidden_layers"])
    context = config["max_position_embeddings"]
    if any(sliding_layers(config)) and not family.gguf.windows:
        context = min(context, config["sliding_window"])
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if head_dim(config) * heads != config["hidden_size"] or "attention.key_length" in asks_for:
        writer.add_key_length(head_dim(config))
        writer.add_value_length(head_dim(config))
    if family.gguf.windows:
        writer.add_sliding_window(config["sliding_window"])
    elif "attention.sliding_window" in asks_for:
        writer.add_sliding_window(0)
    write_rope(writer, config, head_dim(config), asks_for)
