"""What llama.cpp needs to know about each supported architecture.

llama.cpp keeps some facts in its code rather than in the file (Gemma 3's pattern of windows,
SmolLM3's layers without rotary embedding); a model in which they differ is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from exporters.config import Config, head_dim, load_known_config, require, sliding_layers
from exporters.gguf.rope import read_rope, write_rope

if TYPE_CHECKING:
    from gguf import GGUFWriter


def _nothing(_config: Config) -> None:
    """Nothing beyond what all architectures are checked for."""


@dataclass(frozen=True)
class Architecture:
    """How a transformers architecture maps to GGUF.

    Attributes:
        gguf: llama.cpp's name for it.
        permutes_rotary: llama.cpp rotates neighbouring pairs, transformers rotates halves: rows
            of the query and key projections are interleaved to match.
        norm_shift: what is added to the weights of norms, where transformers adds it in its code.
        windows: whether llama.cpp knows sliding-window attention here. Where it doesn't, the
            context ends with the window: up to there it makes no difference.
        rope: kinds of rotary scaling that llama.cpp reads here.
        check: refuses what llama.cpp can't do, by a message.
    """

    gguf: str
    permutes_rotary: bool = False
    norm_shift: float = 0.0
    windows: bool = False
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    check: Callable[[Config], str | None] = _nothing


def _check_gemma3(config: Config) -> str | None:
    kinds = [
        "full_attention" if (i + 1) % 6 == 0 else "sliding_attention"
        for i in range(config["num_hidden_layers"])
    ]
    if config.get("layer_types", kinds) != kinds or config.get("sliding_window_pattern", 6) != 6:
        return "windows other than in five of six layers"
    if config.get("query_pre_attn_scalar", head_dim(config)) != head_dim(config):
        return "attention scaled by another number than the width of a head"
    soft_caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return next((name for name in soft_caps if config.get(name)), None)


def _check_smollm3(config: Config) -> str | None:
    layers = range(config["num_hidden_layers"])
    every_fourth = [int((i + 1) % 4 != 0) for i in layers]
    if config.get("no_rope_layers", every_fourth) != every_fourth:
        return "layers without rotary embedding other than every fourth"
    return None


_LLAMA_ROPE = ("default", "linear", "yarn", "llama3")

# transformers' model_type -> what llama.cpp makes of it
ARCHITECTURES = {
    "llama": Architecture("llama", permutes_rotary=True, rope=_LLAMA_ROPE),
    "mistral": Architecture("llama", permutes_rotary=True, rope=_LLAMA_ROPE),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma3_text": Architecture(
        "gemma3", norm_shift=1.0, windows=True, rope=("default", "linear"), check=_check_gemma3
    ),
    "phi3": Architecture("phi3", rope=("default", "longrope")),
    "smollm3": Architecture("smollm3", permutes_rotary=True, check=_check_smollm3),
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


def read_config(folder: Path) -> tuple[Config, Architecture]:
    """A checkpoint's configuration and its architecture.

    Raises:
        InputError: the exporter doesn't know the architecture or a feature it uses.
    """
    config = load_known_config(folder, ARCHITECTURES, "GGUF")
    require(config, _REQUIRED, folder)
    kind = config["model_type"]
    architecture = ARCHITECTURES[kind]
    rope = read_rope(config, head_dim(config))
    if rope.kind not in architecture.rope:
        raise InputError(f"llama.cpp doesn't know rope scaling '{rope.kind}' of {kind} models.")
    sliding_layers(config)
    if problem := architecture.check(config):
        raise InputError(f"llama.cpp doesn't know {kind} models with {problem}.")
    return config, architecture


def write_hyperparameters(writer: "GGUFWriter", config: Config, architecture: Architecture) -> None:
    """Write the keys that llama.cpp builds its graph from."""
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    context = config["max_position_embeddings"]
    if any(sliding_layers(config)) and not architecture.windows:
        context = min(context, config["sliding_window"])
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if head_dim(config) * heads != config["hidden_size"] or architecture.gguf == "gemma3":
        writer.add_key_length(head_dim(config))
        writer.add_value_length(head_dim(config))
    if architecture.windows:
        writer.add_sliding_window(config["sliding_window"])
    if architecture.gguf == "phi3":
        writer.add_sliding_window(0)  # llama.cpp asks for the key and knows no windows here
    write_rope(writer, config, head_dim(config))
