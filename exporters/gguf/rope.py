"""Rotary embeddings: transformers' parameters in llama.cpp's keys and tensors."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.models.families import Config
from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Parameters of each kind of scaling; others would be lost, so they are refused.
_KNOWN: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor"},
    "longrope": {"factor", "short_factor", "long_factor", "attention_factor"},
}
_ALWAYS = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings",
}  # fmt: skip


@dataclass(frozen=True)
class Rope:
    """Rotary parameters of a model.

    Attributes:
        kind: transformers' name of the scaling.
        theta: base of the frequencies.
        share: share of a head's width that is rotated.
        context: context length of the original training.
        settings: parameters of the scaling kind.
        local_theta: base in layers with a window, if different.
    """

    kind: str
    theta: float
    share: float
    context: int
    settings: dict[str, Any]
    local_theta: float | None = None


def read_rope(config: Config, head_dim: int) -> Rope:
    """Read rotary parameters, in transformers 5's form or the older one.

    Args:
        config: configuration of the model.
        head_dim: width of an attention head.

    Raises:
        InputError: a kind of scaling or a parameter that llama.cpp does not support, or an invalid
            one.
    """
    found = config.get("rope_parameters") or {}
    local = found.get("sliding_attention") or {}
    found = dict(found.get("full_attention") or found)
    found = {**(config.get("rope_scaling") or {}), **found}
    kind = found.get("rope_type") or found.get("type") or "default"
    settings = {name: value for name, value in found.items() if name not in _ALWAYS}
    if kind not in _KNOWN:
        raise InputError(f"The GGUF exporter does not support rope scaling '{kind}'.")
    if unknown := {n for n, v in settings.items() if v is not None} - _KNOWN[kind]:
        raise InputError(
            f"llama.cpp does not support {', '.join(sorted(unknown))} of rope scaling '{kind}'."
        )
    needed = _KNOWN[kind] - {"attention_factor"} - ({"factor"} if kind == "longrope" else set())
    if missing := [name for name in sorted(needed) if settings.get(name) is None]:
        raise InputError(f"Rope scaling '{kind}' lacks {', '.join(missing)} in config.json.")
    rope = Rope(
        kind=kind,
        theta=float(found.get("rope_theta") or config.get("rope_theta") or 10000.0),
        share=float(
            found.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
        ),
        context=int(
            found.get("original_max_position_embeddings")
            or config.get("original_max_position_embeddings")
            or config["max_position_embeddings"]
        ),
        settings=settings,
        local_theta=local.get("rope_theta") or config.get("rope_local_base_freq"),
    )
    if kind == "longrope":
        lengths = {len(settings[name]) for name in ("short_factor", "long_factor")}
        if lengths != {int(rope.share * head_dim) // 2}:
            raise InputError(
                f"Rope scaling 'longrope' has {sorted(lengths)} factors, expected one for each of "
                f"{int(rope.share * head_dim) // 2} frequencies."
            )
    return rope


def write_rope(
    writer: "GGUFWriter", config: Config, head_dim: int, asks_for: Collection[str]
) -> None:
    """Write the keys.

    Args:
        writer: writer of the file.
        config: configuration of the model.
        head_dim: width of an attention head.
        asks_for: keys that llama.cpp requires even if they are defaults.
    """
    from gguf import RopeScalingType

    rope = read_rope(config, head_dim)
    writer.add_rope_freq_base(rope.theta)
    writer.add_rope_dimension_count(int(rope.share * head_dim))
    if rope.local_theta:
        writer.add_rope_freq_base_swa(rope.local_theta)
    if rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope.kind))
        writer.add_rope_scaling_factor(float(rope.settings["factor"]))
    if rope.kind in ("yarn", "longrope") or "rope.scaling.original_context_length" in asks_for:
        writer.add_rope_scaling_orig_ctx_len(rope.context)
    if rope.kind == "longrope":
        scale = config["max_position_embeddings"] / rope.context
        factor = rope.settings.get("attention_factor")
        if factor is None:
            factor = math.sqrt(1 + math.log(scale) / math.log(rope.context)) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(factor)


def rope_tensors(config: Config, head_dim: int) -> dict[str, np.ndarray]:
    """Make tensors for what keys cannot hold: divisors of each frequency, (rotated width / 2,)."""
    rope = read_rope(config, head_dim)
    if rope.kind == "longrope":
        return {
            f"rope_factors_{length}.weight": np.array(rope.settings[f"{length}_factor"], np.float32)
            for length in ("long", "short")
        }
    if rope.kind == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(rope, int(rope.share * head_dim))}
    return {}


def _llama3_divisors(rope: Rope, width: int) -> np.ndarray:
    """Divide long wavelengths by the factor, short ones by 1, those between by a mean.

    As transformers' ``_compute_llama3_parameters`` defines it.
    """
    factor, low, high = (
        float(rope.settings[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    wavelengths = 2 * np.pi * rope.theta ** (np.arange(0, width, 2) / width)
    smooth = (rope.context / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    long, short = wavelengths > rope.context / low, wavelengths < rope.context / high
    return np.where(long, factor, np.where(short, 1.0, between)).astype(np.float32)
