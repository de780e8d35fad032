"""The portable operator set: only standard operators of opset 23."""

import numpy as np
from onnx import TensorProto

from exporters.onnx.decoder import Decoder
from exporters.onnx.graph import Graph

CONTRIB_OPERATORS = False


class Operators:
    """Attention and norms.

    Args:
        graph: graph to extend; has ``input_ids``, ``attention_mask`` and the cache.
        decoder: sizes of the model.
    """

    def __init__(self, graph: Graph, decoder: Decoder):
        self._graph, self._decoder = graph, decoder
        for name, (cos, sin) in decoder.angles.items():
            graph.constant(f"cos{name}", cos)
            graph.constant(f"sin{name}", sin)
        zero = graph.constant("zero_scalar", np.array(0))
        one = graph.constant("one_scalar", np.array(1))
        graph.node("Shape", ["attention_mask"], "total_length_1", start=1, end=2)
        graph.node("Squeeze", ["total_length_1"], "total_length")
        graph.node("Shape", ["input_ids"], "new_length_1", start=1, end=2)
        graph.node("Squeeze", ["new_length_1"], "new_length")
        graph.node("Sub", ["total_length", "new_length"], "past_length")
        graph.node("Range", ["past_length", "total_length", one], "new_positions")
        graph.node("Range", [zero, "total_length", one], "positions")
        graph.node("Shape", ["input_ids"], "batch_1", start=0, end=1)
        graph.node("Concat", ["batch_1", "new_length_1"], "ids_shape", axis=0)
        graph.node("Expand", ["new_positions", "ids_shape"], "position_ids")
        graph.node("Cast", ["attention_mask"], "given", to=TensorProto.BOOL)
        axes = graph.constant("mask_axes", np.array([1, 2]))
        graph.node("Unsqueeze", ["given", axes], "given_keys")  # (batch, 1, 1, total)
        last = graph.constant("last_axis", np.array([-1]))
        graph.node("Unsqueeze", ["new_positions", last], "queries")  # (new, 1)
        self._masks = {window: self._mask(window) for window in set(decoder.windows)}

    def _mask(self, window: int) -> str:
        """Add the mask of keys that each query sees, (batch, 1, new, total)."""
        graph = self._graph
        seen = graph.node("LessOrEqual", ["positions", "queries"], f"causal_{window}")
        if window > 0:
            width = graph.constant(f"window_{window}", np.array(window))
            graph.node("Sub", ["queries", width], f"border_{window}")
            near = graph.node("Greater", ["positions", f"border_{window}"], f"near_{window}")
            seen = graph.node("And", [seen, near], f"local_{window}")
        return graph.node("And", [seen, "given_keys"], f"mask_{window}")

    def norm(self, x: str, weight: str, output: str) -> str:
        """Add a root-mean-square norm."""
        return self._graph.node(
            "RMSNormalization", [x, weight], output, axis=-1, epsilon=self._decoder.eps
        )

    def add_and_norm(self, x: str, more: str, weight: str, output: str) -> tuple[str, str]:
        """Add a sum and its norm."""
        total = self._graph.node("Add", [x, more], f"{output}_sum")
        return self.norm(total, weight, output), total

    def attention(self, layer: int, q: str, k: str, v: str, output: str) -> str:
        """Add rotation, cache update and attention."""
        decoder, graph = self._decoder, self._graph
        past, present = f"past_key_values.{layer}", f"present.{layer}"
        if (by := decoder.rotary[layer]) is not None:
            q = self._rotated(q, decoder.heads, by)
            k = self._rotated(k, decoder.kv_heads, by)
        graph.node(
            "Attention",
            [q, k, v, self._masks[decoder.windows[layer]], f"{past}.key", f"{past}.value"],
            [output, f"{present}.key", f"{present}.value"],
            q_num_heads=decoder.heads,
            kv_num_heads=decoder.kv_heads,
            scale=decoder.attention_scale,
        )
        return output

    def _rotated(self, x: str, heads: int, by: str) -> str:
        width = 2 * self._decoder.angles[by][0].shape[1]
        part = {"rotary_embedding_dim": width} if width < self._decoder.head_dim else {}
        return self._graph.node(
            "RotaryEmbedding", [x, f"cos{by}", f"sin{by}", "position_ids"], f"{x}_rotated",
            num_heads=heads, **part,
        )  # fmt: skip
