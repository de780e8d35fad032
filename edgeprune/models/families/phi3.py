"""Phi 3 and 3.5: queries, keys and values in one matrix, gate and up projection in another."""

from edgeprune.models.families.base import Family, Gguf, Onnx

FAMILY = Family(
    model_types=("phi3",),
    # No feed_forward: a channel has two rows in gate_up_proj, one in each half.
    gguf=Gguf(
        "phi3",
        rope=("default", "longrope"),
        # It knows no windows, and asks for their width all the same.
        asks_for=frozenset({"attention.sliding_window", "rope.scaling.original_context_length"}),
    ),
    onnx=Onnx(("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")),
)
