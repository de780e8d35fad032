"""Gemma 3's text models: norms before and after each submodule, windows in five of six layers."""

from edgeprune.models.families.base import (
    GATED,
    HEAD_NORMS,
    LLAMA_MATRICES,
    Config,
    Family,
    Gguf,
    Norms,
    Onnx,
    head_dim,
)

_ATTENTION_WIDTH = "query_pre_attn_scalar"


def _trap(config: Config) -> str | None:
    kinds = [
        "full_attention" if (i + 1) % 6 == 0 else "sliding_attention"
        for i in range(config["num_hidden_layers"])
    ]
    if config.get("layer_types", kinds) != kinds or config.get("sliding_window_pattern", 6) != 6:
        return "sliding windows in a layout other than five of every six layers"
    if config.get(_ATTENTION_WIDTH, head_dim(config)) != head_dim(config):
        return "an attention scale other than the width of a head"
    soft_caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return next((name for name in soft_caps if config.get(name)), None)


FAMILY = Family(
    model_types=("gemma3_text",),
    feed_forward=GATED,
    activation="gelu_pytorch_tanh",
    norm_shift=1.0,
    tied=True,
    gguf=Gguf(
        "gemma3",
        windows=True,
        rope=("default", "linear"),
        asks_for=frozenset({"attention.key_length"}),
        trap=_trap,
    ),
    onnx=Onnx(
        LLAMA_MATRICES,
        HEAD_NORMS,
        Norms(
            feed_forward="pre_feedforward_layernorm",
            after_attention="post_attention_layernorm",
            after_feed_forward="post_feedforward_layernorm",
        ),
        scales_embedding=True,
        attention_width=_ATTENTION_WIDTH,
    ),
)
