"""Qwen 2 and 2.5."""

from edgeprune.models.families.base import GATED, LLAMA_MATRICES, Family, Gguf, Onnx

FAMILY = Family(
    model_types=("qwen2",),
    feed_forward=GATED,
    gguf=Gguf("qwen2"),
    onnx=Onnx(LLAMA_MATRICES),
)
