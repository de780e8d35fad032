"""Llama, and Mistral, whose blocks are the same."""

from edgeprune.models.families.base import GATED, LLAMA_MATRICES, Family, Gguf, Onnx

FAMILY = Family(
    model_types=("llama", "mistral"),
    feed_forward=GATED,
    gguf=Gguf("llama", permutes_rotary=True, rope=("default", "linear", "yarn", "llama3")),
    onnx=Onnx(LLAMA_MATRICES),
)
