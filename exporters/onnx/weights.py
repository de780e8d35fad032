"""Convert a checkpoint's tensors to initializers, and add the operators that use them."""

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from edgeprune.planning.grid import Grid
from edgeprune.quantization.scales import one_by_one
from exporters.base import Model
from exporters.onnx.graph import CONTRIB, Graph
from exporters.onnx.plan import BITS, EMBEDDING, HEAD, PlannedTensor

_ROWS_AT_ONCE = 8192


class WeightWriter:
    """Adds tensors to a graph, each once, and products with them.

    Args:
        graph: graph to extend.
        model: source of the tensors.
        planned: storage of each tensor.
        contrib: whether onnxruntime's own operators may be used.
        norm_shift: number added to the weights of norms.
    """

    def __init__(
        self,
        graph: Graph,
        model: Model,
        planned: Mapping[str, PlannedTensor],
        contrib: bool,
        norm_shift: float = 0.0,
    ):
        self._graph, self._model, self._planned = graph, model, planned
        self._contrib, self._norm_shift = contrib, norm_shift
        self._written: dict[str, str] = {}  # name -> what gives it, as float32 unless quantised

    def __contains__(self, name: str) -> bool:
        return name in self._planned

    def vector(self, name: str) -> str:
        """Add a norm's weights or a bias."""
        if name not in self._written:
            value = self._model.weights.read(name).float().numpy()
            if name.endswith("norm.weight"):
                value = value + np.float32(self._norm_shift)
            self._written[name] = self._graph.constant(name, value)
        return self._written[name]

    def linear(self, name: str, x: str, output: str) -> str:
        """Add ``x W'``, and a bias if the checkpoint has one.

        Args:
            name: name of the layer; its tensors are ``<name>.weight`` and ``<name>.bias``.
            x: (batch, tokens, in).
            output: name of the result, (batch, tokens, out).
        """
        biased = f"{name}.bias" in self._planned
        product = f"{output}_product" if biased else output
        self.multiply(f"{name}.weight", x, product)
        if biased:
            self._graph.node("Add", [product, self.vector(f"{name}.bias")], output)
        return output

    def head(self, x: str, output: str) -> str:
        """Add logits, by the head or the tied embedding."""
        return self.multiply(HEAD if HEAD in self else EMBEDDING, x, output)

    def look_up(self, name: str, ids: str, output: str) -> str:
        """Add a look-up of rows."""
        tensor = self._planned[name]
        weight, graph = self._write(tensor), self._graph
        if tensor.type in BITS:
            return graph.node(
                "GatherBlockQuantized", [weight, ids, f"{tensor.name}.scales"], output, CONTRIB,
                bits=BITS[tensor.type], block_size=tensor.block, gather_axis=0, quantize_axis=1,
            )  # fmt: skip
        return graph.node("Gather", [weight, ids], output)

    def multiply(self, name: str, x: str, output: str) -> str:
        """``x W'``."""
        tensor = self._planned[name]
        weight, graph = self._write(tensor), self._graph
        if tensor.type in BITS:
            return self._multiply_quantized(tensor, weight, x, output)
        if tensor.transposed:
            return graph.node("MatMul", [x, weight], output)
        if self._contrib:
            return graph.node("FusedMatMul", [x, weight], output, CONTRIB, transB=1)
        turned = graph.node("Transpose", [weight], f"{tensor.name}.transposed", perm=[1, 0])
        return graph.node("MatMul", [x, turned], output)

    def _multiply_quantized(self, tensor: PlannedTensor, weight: str, x: str, output: str) -> str:
        out, columns = tensor.shape
        bits, blocks = BITS[tensor.type], columns // tensor.block
        if tensor.looked_up:  # (out, bytes) for look-ups
            dims = np.array([out, blocks, tensor.block * bits // 8])
            shape = self._graph.constant(f"{weight}.blocked_shape", dims)
            weight = self._graph.node("Reshape", [weight, shape], f"{weight}.blocked")
        return self._graph.node(
            "MatMulNBits", [x, weight, f"{tensor.name}.scales"], output, CONTRIB,
            K=columns, N=out, bits=bits, block_size=tensor.block, accuracy_level=4,
        )  # fmt: skip

    def _write(self, tensor: PlannedTensor) -> str:
        name = tensor.name
        if name in self._written:
            return self._written[name]
        properties = {"edgeprune.pruned": "1"} if name in self._model.pruned else {}
        if tensor.alphabet:
            properties["edgeprune.codes"] = tensor.grid.name
        if tensor.type in BITS:
            codes, scales = quantized(self._model, tensor)
            shape = codes.shape[:1] if tensor.looked_up else codes.shape[:2]
            self._graph.weight(name, codes.reshape(*shape, -1), **properties)
            self._graph.weight(f"{name}.scales", scales)
            self._written[name] = name
            return name
        value = self._model.weights.read(name).float() + 0.0  # a pruned weight may be -0
        array = (value.T if tensor.transposed else value).contiguous().numpy()
        if tensor.type == "FP16":
            self._graph.weight(name, array.astype(np.float16), **properties)
            self._written[name] = self._graph.node(
                "Cast", [name], f"{name}.float32", to=TensorProto.FLOAT
            )
        else:
            self._written[name] = self._graph.weight(name, array, **properties)
        return self._written[name]


def quantized(model: Model, tensor: PlannedTensor) -> tuple[np.ndarray, np.ndarray]:
    """Encode a matrix as codes and scales, in the layout of onnxruntime's ``MatMulNBits``.

    Scales fit kept weights only, weighted by calibration statistics; scales and codes chosen by
    calibration are used as they are.

    Returns:
        (out, blocks, bytes) uint8 and (out, blocks) float32.
    """
    found, grid = model.calibration, tensor.grid
    values = model.weights.read(tensor.name).float()
    importance = torch.ones(values.shape[1])
    if (key := f"{tensor.name}.importance") in found:
        importance = found.read(key).float()
    chosen = found.read(f"{tensor.name}.scales") if f"{tensor.name}.scales" in found else None
    codes, scales = [], []
    for start in range(0, len(values), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        own = None if chosen is None else chosen[rows].float()
        part, scale = _round(values[rows], importance, own, grid)
        codes.append(_bytes(part, BITS[tensor.type]))
        scales.append(scale.numpy())
    blocks = values.shape[1] // grid.block
    return np.concatenate(codes).reshape(len(values), blocks, -1), np.concatenate(scales)


def _round(
    values: Tensor, importance: Tensor, scales: Tensor | None, grid: Grid
) -> tuple[Tensor, Tensor]:
    if scales is None:
        values, scales = one_by_one(values, importance[:, None] * (values != 0).T, grid)
    each = scales.repeat_interleave(grid.block, dim=1)
    whole = torch.where(each == 0, 0, values / each).round_().clamp_(grid.low, grid.high)
    return whole.to(torch.int8), scales


def _bytes(codes: Tensor, bits: int) -> np.ndarray:
    """Pack codes with zero in the middle; two 4-bit codes per byte, the first one low."""
    unsigned = (codes.numpy().astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    return unsigned if bits == 8 else unsigned[:, ::2] | unsigned[:, 1::2] << 4
