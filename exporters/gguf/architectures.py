"""What llama.cpp needs to know about each supported architecture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Architecture:
    """How a transformers architecture maps to GGUF.

    Attributes:
        gguf: llama.cpp's name for it.
        permutes_rotary: llama.cpp rotates neighbouring pairs, transformers rotates halves: rows
            of the query and key projections are interleaved to match.
    """

    gguf: str
    permutes_rotary: bool


# transformers' model_type -> what llama.cpp makes of it
ARCHITECTURES = {
    "llama": Architecture("llama", permutes_rotary=True),
    "mistral": Architecture("llama", permutes_rotary=True),
}


_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)


def read_config(folder: Path) -> tuple[dict[str, Any], Architecture]:
    """A checkpoint's configuration and its architecture.

    Raises:
        InputError: the exporter doesn't know the architecture or a feature it uses.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} can't be read: {error}.") from None
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"The GGUF exporter doesn't know the architecture '{kind}'.",
            f"It knows: {', '.join(sorted(ARCHITECTURES))}.",
        )
    if missing := [name for name in _REQUIRED if name not in config]:
        raise InputError(f"{folder / 'config.json'} lacks {', '.join(missing)}.")
    rope = _rope(config)
    if rope["type"] != "default":
        raise InputError(f"The GGUF exporter doesn't know rope scaling '{rope['type']}' yet.")
    if config.get("sliding_window"):
        raise InputError("The GGUF exporter doesn't know sliding-window attention yet.")
    return config, ARCHITECTURES[kind]


def write_hyperparameters(writer: "GGUFWriter", config: dict[str, Any]) -> None:
    """Write the keys that llama.cpp builds its graph from."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope(config)["theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    if head_dim * heads != config["hidden_size"]:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters, in transformers 5's form or the older one."""
    new = config.get("rope_parameters") or {}
    old = config.get("rope_scaling") or {}
    return {
        "type": new.get("rope_type") or old.get("rope_type") or old.get("type") or "default",
        "theta": float(new.get("rope_theta") or config.get("rope_theta") or 10000.0),
    }
