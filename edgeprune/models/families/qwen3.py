"""Qwen 3: a norm is applied to every query and key head."""

from edgeprune.models.families.base import GATED, HEAD_NORMS, LLAMA_MATRICES, Family, Gguf, Onnx

FAMILY = Family(
    model_types=("qwen3",),
    feed_forward=GATED,
    gguf=Gguf("qwen3"),
    onnx=Onnx(LLAMA_MATRICES, HEAD_NORMS),
)
