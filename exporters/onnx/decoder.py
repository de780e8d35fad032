"""What a graph builder needs to know of a Llama-like decoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError
from edgeprune.extras import load
from exporters.config import Config, head_dim, load_config, require, sliding_layers

# Longer tables of angles than any assistant on a device needs; 128k positions take 64 MB.
_MOST_POSITIONS = 32768
_KINDS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_REQUIRED = (
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)
# Rotary scalings whose angles don't depend on how long the text is.
_ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Decoder:
    """The shape of a model.

    Attributes:
        kind: transformers' ``model_type``.
        layers: blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        eps: added to the mean square in norms.
        context: positions that the tables reach.
        vocabulary: tokens.
        tied: whether the embedding is the output head too.
        cos, sin: (context, head_dim / 2) float32, of the rotary embedding.
        rotary: for each layer, whether it rotates.
        windows: for each layer, how far back attention reaches; -1: to the beginning.
        config: ``config.json``.
    """

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    context: int
    vocabulary: int
    tied: bool
    cos: np.ndarray
    sin: np.ndarray
    rotary: tuple[bool, ...]
    windows: tuple[int, ...]
    config: Config


def read_decoder(folder: Path) -> Decoder:
    """Read a transformers folder's configuration.

    Raises:
        InputError: the exporter doesn't know the architecture or a feature it uses.
    """
    config = load_config(folder, _KINDS, "ONNX")
    require(config, _REQUIRED, folder)
    kind = config["model_type"]
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(f"The ONNX exporter knows no {config['hidden_act']} in {kind} models.")
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    width = head_dim(config)
    context = min(config["max_position_embeddings"], _MOST_POSITIONS)
    cos, sin = _angles(folder, config, width, context)
    return Decoder(
        kind=kind,
        layers=layers,
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=width,
        eps=config["rms_norm_eps"],
        context=context,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        cos=cos,
        sin=sin,
        rotary=_rotary(config, layers),
        windows=tuple(
            int(config["sliding_window"]) if slides else -1 for slides in sliding_layers(config)
        ),
        config=config,
    )


def _angles(
    folder: Path, config: Config, width: int, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines as transformers computes them."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    share = given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if kind not in _ROPE_KINDS or share != 1.0:
        raise InputError(
            f"The ONNX exporter doesn't know rope scaling '{kind}' over {share:.0%} of a head.",
            f"It knows, over whole heads: {', '.join(_ROPE_KINDS)}.",
        )
    if kind == "default":
        theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
        frequencies = 1 / theta ** (np.arange(0, width, 2, dtype=np.float32) / width)
        factor = 1.0
    else:
        load("transformers")
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        read = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        found, factor = ROPE_INIT_FUNCTIONS[kind](read, device="cpu")
        frequencies = found.numpy()
    angles = np.arange(context, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)


def _rotary(config: Config, layers: int) -> tuple[bool, ...]:
    """SmolLM3 leaves the rotation out of every fourth layer."""
    if config["model_type"] != "smollm3":
        return (True,) * layers
    every = config.get("no_rope_layer_interval", 4)
    given = config.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    return tuple(map(bool, given))
