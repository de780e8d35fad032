"""The description of a Llama-like decoder, for graph builders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.models.families import Config, Family, by_model_type, head_dim
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load
from exporters.config import load_known_config, require, sliding_layers

# Longer tables of angles than any assistant on a device needs; 128k positions take 64 MB.
_MOST_POSITIONS = 32768
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
_ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
_EVERYWHERE, _IN_WINDOWS = "", "_local"  # which angles a layer rotates by

Angles = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Decoder:
    """The sizes and settings of a model.

    Attributes:
        kind: transformers' ``model_type``.
        family: facts about models of this kind.
        layers: number of blocks.
        hidden: width of the residual stream.
        heads: number of query heads.
        kv_heads: number of key and value heads.
        head_dim: width of a head.
        eps: constant added to the mean square in norms.
        context: number of positions in the rotary tables.
        vocabulary: number of tokens.
        tied: whether the embedding is also the output head.
        angles: cosines and sines of rotary embeddings by name, (context, rotated / 2) float32.
        rotary: for each layer, the name of its angles; None: no rotation.
        windows: for each layer, the attention window; -1: unlimited.
        activation: activation of the feed-forward networks.
        attention_scale: factor on the products of queries and keys.
        embedding_scale: factor on the embeddings.
        config: content of ``config.json``.
    """

    kind: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    context: int
    vocabulary: int
    tied: bool
    angles: dict[str, Angles]
    rotary: tuple[str | None, ...]
    windows: tuple[int, ...]
    activation: str
    attention_scale: float
    embedding_scale: float
    config: Config


def known_families() -> dict[str, Family]:
    """Return the families whose graph is built, by ``model_type``; others are traced."""
    return {name: family for name, family in by_model_type().items() if family.onnx.matrices}


def read_decoder(folder: Path) -> Decoder:
    """Read a transformers folder's configuration.

    Raises:
        InputError: the exporter does not support the architecture or a feature of it.
    """
    config, family = load_known_config(folder, known_families(), "ONNX")
    require(config, _REQUIRED, folder)
    kind, activation = config["model_type"], family.activation_of(config)
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"The ONNX exporter does not support the activation {activation} in {kind} models."
        )
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(cap):
            raise InputError(f"The ONNX exporter does not support {cap}.")
    width, heads = head_dim(config), config["num_attention_heads"]
    context = min(config["max_position_embeddings"], _MOST_POSITIONS)
    slides = sliding_layers(config)
    angles = _angles(folder, config, width, context)
    return Decoder(
        kind=kind,
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=width,
        eps=config["rms_norm_eps"],
        context=context,
        vocabulary=config["vocab_size"],
        tied=family.is_tied(config),
        angles=angles,
        rotary=_rotary(family.rotates(config), slides, angles),
        windows=tuple(int(config["sliding_window"]) if s else -1 for s in slides),
        activation=activation,
        attention_scale=float(config.get(family.onnx.attention_width, width)) ** -0.5,
        embedding_scale=config["hidden_size"] ** 0.5 if family.onnx.scales_embedding else 1.0,
        config=config,
    )


def _angles(folder: Path, config: Config, width: int, context: int) -> dict[str, Angles]:
    """Compute cosines and sines as in transformers; separate ones for windows if needed."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    local = given.get("sliding_attention")
    if "rope_local_base_freq" in config and not local:
        local = {"rope_theta": config["rope_local_base_freq"]}
    everywhere = given.get("full_attention") or given
    found = {_EVERYWHERE: _table(folder, config, everywhere, width, context)}
    if local:
        found[_IN_WINDOWS] = _table(folder, config, local, width, context)
    return found


def _table(folder: Path, config: Config, given: Config, width: int, context: int) -> Angles:
    kind = given.get("rope_type") or given.get("type") or "default"
    share = given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    plain = kind in ("default", "linear")
    if kind not in _ROPE_KINDS or (share != 1.0 and not plain):
        raise InputError(
            f"The ONNX exporter does not support rope scaling '{kind}' over {share:.0%} of a head.",
            f"Supported, over whole heads: {', '.join(_ROPE_KINDS)}.",
        )
    factor = 1.0
    if plain:
        theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
        rotated = int(width * share)
        frequencies = 1 / theta ** (np.arange(0, rotated, 2, dtype=np.float32) / rotated)
        if kind == "linear":
            frequencies /= float(given["factor"])
    else:
        load("transformers")
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        read = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        computed, factor = ROPE_INIT_FUNCTIONS[kind](read, device="cpu")
        frequencies = computed.numpy()
    angles = np.arange(context, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)


def _rotary(
    rotates: list[bool], slides: list[bool], angles: dict[str, Angles]
) -> tuple[str | None, ...]:
    """Name each layer's angles: windows may have their own, and some layers have none."""
    names = [_IN_WINDOWS if s and _IN_WINDOWS in angles else _EVERYWHERE for s in slides]
    return tuple(n if rotated else None for n, rotated in zip(names, rotates, strict=False))
