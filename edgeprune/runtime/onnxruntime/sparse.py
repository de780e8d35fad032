"""Sparse products inside onnxruntime: our operator replaces products with pruned weights.

The operator is in ``onnxruntime_adapter.cpp``. It runs the same kernels as for llama.cpp, so
weights are first rewritten as rows of GGUF blocks; weights that cannot be rewritten exactly stay
with onnxruntime.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgeprune.formats import forms
from edgeprune.formats.codes import CODES, nonzero
from edgeprune.runtime import library
from edgeprune.runtime.placement import Placement
from edgeprune.support.errors import InputError

_DOMAIN, _OPERATOR, _BLOCK = "edgeprune", "SparseMatMul", 32
_BITS_TO_TYPE = {8: "Q8_0", 4: "Q4_0"}

Read = Callable[[], np.ndarray]


@dataclass(frozen=True)
class _Product:
    """A node that multiplies by a weight, and the weight's rows as GGUF blocks."""

    node: Any
    weight: str
    kind: str
    shape: tuple[int, int]
    rows: Callable[[], np.ndarray | None]


def replace_products(
    model: Any, arrays: dict[str, Read], pruned: set[str], threads: int
) -> tuple[dict[str, np.ndarray], Placement]:
    """Put sparse products into a graph, in place.

    Args:
        model: an ``onnx.ModelProto``.
        arrays: initializers by name, each read when it is called.
        pruned: names of initializers that may gain.
        threads: number of parts per product.

    Returns:
        New initializers by name, and the placement report. Nodes and weights no longer used are
        removed from the graph and from ``arrays``.

    Raises:
        InputError: an initializer in the graph is damaged.
    """
    from onnx import helper

    given: dict[str, np.ndarray] = {}
    packed_bytes = dense_bytes = claimed = 0
    for product in _products(model, arrays, pruned):
        claimed += 1
        rows = product.rows()
        shape = None if rows is None else _packed_as(product, rows)
        if rows is None or shape is None:
            continue
        layout = {"layout": shape.layout, "bits": shape.bits, "group": shape.group}
        packed = library.PackedMatrix(product.kind, rows, product.shape, **layout).packed
        name = f"{product.weight}.{_OPERATOR}"
        given[name] = packed
        packed_bytes, dense_bytes = packed_bytes + packed.nbytes, dense_bytes + rows.nbytes
        new = helper.make_node(
            _OPERATOR, [product.node.input[0], name], list(product.node.output),
            product.node.name, domain=_DOMAIN, type=library.TYPES[product.kind],
            rows=product.shape[0], cols=product.shape[1], threads=threads, **layout,
        )  # fmt: skip
        product.node.CopyFrom(new)
    if given:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        _sweep(model, arrays)
    return given, Placement(claimed, len(given), packed_bytes, dense_bytes)


def _products(model: Any, arrays: dict[str, Read], pruned: set[str]) -> Iterator[_Product]:
    inside = {t.name: partial(_inside, t) for t in model.graph.initializer}
    reads: dict[str, Read] = {**inside, **arrays}
    pruned = pruned & reads.keys()  # weights in ONNX's sparse form are onnxruntime's own business
    casts = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.input[1] in pruned and len(node.input) == 3:
            given = {a.name: a.i for a in node.attribute}
            shape, bits = (given.get("N", 0), given.get("K", 0)), given.get("bits", 4)
            block = given.get("block_size") or 1
            if bits in _BITS_TO_TYPE and not block % _BLOCK and not shape[1] % block:
                codes, scales = (reads[name]() for name in node.input[1:])
                if codes.size * 8 == math.prod(shape) * bits:
                    rows = partial(_quantized_rows, codes, scales, bits, block)
                    yield _Product(node, node.input[1], _BITS_TO_TYPE[bits], shape, rows)
        elif node.op_type == "MatMul" and (half := casts.get(node.input[1])) in pruned:
            assert half
            array = reads[half]()
            if array.dtype == np.float16 and array.ndim == 2 and not array.shape[0] % _BLOCK:
                yield _Product(node, half, "F16", array.shape[::-1], partial(_float_rows, array))
        elif node.op_type == "MatMul" and node.input[1] in pruned:
            array = reads[node.input[1]]()
            if array.dtype == np.float32 and array.ndim == 2 and not array.shape[0] % _BLOCK:
                yield _Product(
                    node, node.input[1], "F32", array.shape[::-1], partial(_float_rows, array)
                )


def _inside(tensor: Any) -> np.ndarray:
    """Read an initializer that stands in the graph."""
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"The ONNX file is damaged: {tensor.name}: {error}.", "Download or build it again."
        ) from None


def _quantized_rows(
    codes: np.ndarray, scales: np.ndarray, bits: int, block: int
) -> np.ndarray | None:
    """Rewrite weights as GGUF blocks; None if a scale is not exact in float16."""
    exact = scales.reshape(-1, 1).repeat(block // _BLOCK, axis=1).reshape(-1, 1)
    halves = exact.astype(np.float16)
    if not (halves.astype(np.float32) == exact).all():
        return None
    stored = codes.reshape(-1)
    if bits == 4:
        stored = np.stack([stored & 15, stored >> 4], axis=-1)
    # A byte of ONNX has its zero in the middle, as a nibble of both has.
    of_blocks = stored.reshape(-1, _BLOCK) ^ (128 if bits == 8 else 0)
    return CODES[_BITS_TO_TYPE[bits]].join(halves.view(np.uint8), of_blocks)


def _float_rows(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T).view(np.uint8)


def _packed_as(product: _Product, rows: np.ndarray) -> library.Shape | None:
    """Choose how a weight is packed; None if no kernel in use would be faster."""
    form, _ = forms.find(product.kind, rows.reshape(-1), product.shape[1])
    found = library.shape_of(product.kind, product.shape, form)
    if found is None:  # fewer codes than kernels have
        found = library.shape_of(product.kind, product.shape, forms.whole(product.kind))
    if found is None:
        return None
    sparse = found.layout == library.SPARSE
    return found if (_gains(product, rows) if sparse else library.narrow_gains()) else None


def _gains(product: _Product, rows: np.ndarray) -> bool:
    """Tell whether a weight is sparse enough for the kernels in use to be faster."""
    try:
        kept = np.count_nonzero(np.asarray(nonzero(product.kind, rows.reshape(-1))))
    except ValueError:  # not finite: onnxruntime's own products show what comes of it
        return False
    return bool(kept / math.prod(product.shape) <= library.break_even(product.kind))


def _sweep(model: Any, arrays: dict[str, Read]) -> None:
    """Remove casts and initializers that are no longer used."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [n for n in graph.node if n.op_type != "Cast" or used & set(n.output)]
    used = {name for node in kept for name in node.input}
    initializers = [t for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
    for name in set(arrays) - used:
        del arrays[name]
