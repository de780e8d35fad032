"""The operator set of onnxruntime: its own fused operators, with the KV cache bound in place."""

import numpy as np
from onnx import TensorProto

from exporters.onnx.decoder import Decoder
from exporters.onnx.graph import CONTRIB, Graph

CONTRIB_OPERATORS = True


class Operators:
    """Attention and norms.

    Args:
        graph: graph to extend; has ``attention_mask``.
        decoder: sizes of the model.
    """

    def __init__(self, graph: Graph, decoder: Decoder):
        self._graph, self._decoder = graph, decoder
        for name, (cos, sin) in decoder.angles.items():
            graph.constant(f"cos{name}", cos)
            graph.constant(f"sin{name}", sin)
        one, last = np.array([1]), np.array(1)
        graph.node(
            "ReduceSum", ["attention_mask", graph.constant("one", one)], "lengths", keepdims=0
        )
        graph.node("Sub", ["lengths", graph.constant("one_scalar", last)], "last_positions")
        graph.node("Cast", ["last_positions"], "seqlens_k", to=TensorProto.INT32)
        graph.node("Shape", ["attention_mask"], "total_length_1", start=1, end=2)
        graph.node("Squeeze", ["total_length_1"], "total_length_64")
        graph.node("Cast", ["total_length_64"], "total_length", to=TensorProto.INT32)

    def norm(self, x: str, weight: str, output: str) -> str:
        """Add a root-mean-square norm."""
        return self._graph.node(
            "RMSNormalization", [x, weight], output, axis=-1, epsilon=self._decoder.eps
        )

    def add_and_norm(self, x: str, more: str, weight: str, output: str) -> tuple[str, str]:
        """Add a sum and its norm."""
        total = f"{output}_sum"
        self._graph.node(
            "SkipSimplifiedLayerNormalization", [x, more, weight], [output, "", "", total],
            CONTRIB, epsilon=self._decoder.eps,
        )  # fmt: skip
        return output, total

    def attention(self, layer: int, q: str, k: str, v: str, output: str) -> str:
        """Add rotation, cache update and attention."""
        decoder, past, present = self._decoder, f"past_key_values.{layer}", f"present.{layer}"
        by = decoder.rotary[layer]
        angles = ["", ""] if by is None else [f"cos{by}", f"sin{by}"]
        self._graph.node(
            "GroupQueryAttention",
            [q, k, v, f"{past}.key", f"{past}.value", "seqlens_k", "total_length", *angles],
            [output, f"{present}.key", f"{present}.value"],
            CONTRIB,
            num_heads=decoder.heads,
            kv_num_heads=decoder.kv_heads,
            do_rotary=int(by is not None),
            local_window_size=decoder.windows[layer],
            scale=decoder.attention_scale,
        )
        return output
