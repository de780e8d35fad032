"""Build the model's graph block by block, and write weights to the data file."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from exporters.onnx import ort, portable
from exporters.onnx.decoder import Decoder
from exporters.onnx.graph import Graph
from exporters.onnx.plan import EMBEDDING, NORM
from exporters.onnx.weights import WeightWriter

OPERATORS = {"ort": ort, "portable": portable}


def build(
    graph: Graph,
    decoder: Decoder,
    weights: WeightWriter,
    operators: "ort.Operators | portable.Operators",
    advance: Callable[[], None],
) -> None:
    """Add everything between token ids and logits.

    Args:
        graph: graph with the inputs from `declare`.
        decoder: sizes of the model.
        weights: adds products with the weights.
        operators: onnxruntime's own operators, or standard ones.
        advance: receives progress by blocks.
    """
    norms = decoder.family.onnx.norms
    x, more = weights.look_up(EMBEDDING, "input_ids", "embeddings"), ""
    if decoder.embedding_scale != 1:
        factor = graph.constant("embedding_scale", np.array(decoder.embedding_scale, np.float32))
        x = graph.node("Mul", [x, factor], "scaled_embeddings")
    for layer in range(decoder.layers):
        name = f"model.layers.{layer}"
        before, between = f"{name}.{norms.attention}", f"{name}.{norms.feed_forward}"
        scale = weights.vector(f"{before}.weight")
        if more:
            normed, x = operators.add_and_norm(x, more, scale, before)
        else:
            normed = operators.norm(x, scale, before)
        more = _attention(graph, decoder, weights, operators, layer, normed)
        if norms.after_attention:
            after = f"{name}.{norms.after_attention}"
            more = operators.norm(more, weights.vector(f"{after}.weight"), after)
        scale = weights.vector(f"{between}.weight")
        normed, x = operators.add_and_norm(x, more, scale, between)
        more = _feed_forward(graph, decoder, weights, f"{name}.mlp", normed)
        if norms.after_feed_forward:
            after = f"{name}.{norms.after_feed_forward}"
            more = operators.norm(more, weights.vector(f"{after}.weight"), after)
        advance()
    final, _ = operators.add_and_norm(x, more, weights.vector(NORM), "final")
    weights.head(final, "logits")
    advance()


def declare(graph: Graph, decoder: Decoder) -> None:
    """Declare inputs and outputs, named as onnxruntime-genai expects them."""
    graph.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
    graph.input("attention_mask", TensorProto.INT64, ["batch", "total_sequence"])
    graph.output("logits", TensorProto.FLOAT, ["batch", "sequence", decoder.vocabulary])
    cache: list[int | str] = ["batch", decoder.kv_heads, "", decoder.head_dim]
    for layer in range(decoder.layers):
        for part in ("key", "value"):
            past, present = [*cache], [*cache]
            past[2], present[2] = "past_sequence", "total_sequence"
            graph.input(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, past)
            graph.output(f"present.{layer}.{part}", TensorProto.FLOAT, present)


def _attention(
    graph: Graph,
    decoder: Decoder,
    weights: WeightWriter,
    operators: "ort.Operators | portable.Operators",
    layer: int,
    x: str,
) -> str:
    name = f"model.layers.{layer}.self_attn"
    q, k, v = _queries_keys_values(graph, decoder, weights, name, x)
    if f"{name}.q_norm.weight" in weights:
        q = _norm_of_heads(graph, decoder, weights, operators, f"{name}.q_norm", q, decoder.heads)
        k = _norm_of_heads(
            graph, decoder, weights, operators, f"{name}.k_norm", k, decoder.kv_heads
        )
    attended = operators.attention(layer, q, k, v, f"{name}.attended")
    return weights.linear(f"{name}.o_proj", attended, f"{name}.o")


def _queries_keys_values(
    graph: Graph, decoder: Decoder, weights: WeightWriter, name: str, x: str
) -> list[str]:
    parts = [f"{name}.{part}" for part in "qkv"]
    if f"{name}.qkv_proj.weight" not in weights:
        return [weights.linear(f"{part}_proj", x, part) for part in parts]
    together = weights.linear(f"{name}.qkv_proj", x, f"{name}.qkv")
    sizes = np.array([decoder.heads, decoder.kv_heads, decoder.kv_heads]) * decoder.head_dim
    graph.node("Split", [together, graph.constant("qkv_sizes", sizes)], parts, axis=-1)
    return parts


def _norm_of_heads(
    graph: Graph,
    decoder: Decoder,
    weights: WeightWriter,
    operators: "ort.Operators | portable.Operators",
    name: str,
    x: str,
    heads: int,
) -> str:
    """Add the norm of each head, as in Qwen 3."""
    apart = graph.constant(f"heads_{heads}", np.array([0, 0, heads, decoder.head_dim]))
    joined = graph.constant(f"width_{heads}", np.array([0, 0, heads * decoder.head_dim]))
    graph.node("Reshape", [x, apart], f"{name}.heads")
    operators.norm(f"{name}.heads", weights.vector(f"{name}.weight"), f"{name}.normed")
    return graph.node("Reshape", [f"{name}.normed", joined], f"{name}.joined")


def _feed_forward(graph: Graph, decoder: Decoder, weights: WeightWriter, name: str, x: str) -> str:
    gate, up = f"{name}.gate", f"{name}.up"
    if f"{name}.gate_up_proj.weight" in weights:
        both = weights.linear(f"{name}.gate_up_proj", x, f"{name}.gate_up")
        graph.node("Split", [both], [gate, up], axis=-1, num_outputs=2)
    else:
        weights.linear(f"{name}.gate_proj", x, gate)
        weights.linear(f"{name}.up_proj", x, up)
    if decoder.activation == "silu":
        graph.node("Sigmoid", [gate], f"{name}.sigmoid")
        active = graph.node("Mul", [gate, f"{name}.sigmoid"], f"{name}.silu")
    else:
        active = graph.node("Gelu", [gate], f"{name}.gelu", approximate="tanh")
    graph.node("Mul", [active, up], f"{name}.inner")
    return weights.linear(f"{name}.down_proj", f"{name}.inner", f"{name}.down")
