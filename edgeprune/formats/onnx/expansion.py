"""Nodes of standard operators that rebuild packed tensors when a session is made."""

from typing import Any

import numpy as np

from edgeprune.formats.onnx.packing import Packing

MASK, KEPT = ".mask", ".kept"
NODE = "edgeprune.expand"  # names of nodes and of what they share begin so
_MOST_PLANES = 7  # of numbers narrower than a byte


def constants() -> list[Any]:
    """Make the initializers that all expansions share."""
    from onnx import numpy_helper

    values = {
        "powers": np.array([[1, 2, 4, 8, 16, 32, 64, 128]], np.uint8),
        "flat": np.array([-1]),
        "axis": np.array(0),
        "low": np.array(15, np.uint8),
        "pairs": np.array([-1, 2]),
        "last_axis": np.array([1]),
    }
    for place in range(_MOST_PLANES):
        values[f"place.{place}"] = np.array(place)
        values[f"shift.{place}"] = np.array(place, np.uint8)
    return [numpy_helper.from_array(v, _shared(name)) for name, v in values.items()]


def _shared(name: str) -> str:
    """Name one of `constants`."""
    return f"{NODE}.{name}"


def expansion(name: str, packing: Packing) -> list[Any]:
    """Make nodes that compute ``name`` from its mask and its kept elements.

    An element's place among the kept ones is the number of mask bits up to it, and 0, where the
    zero stands, if its own bit is not set. (`Where` would be plainer, and onnxruntime has none for
    float16 on CPUs.)
    """
    from onnx import TensorProto

    nodes = _Nodes(name)
    kept = name + KEPT
    if packing.stored:
        kept = _from_planes(nodes, packing, kept)
    elif packing.bits == 4:
        kept = _from_nibbles(nodes, kept)
    if packing.masked:
        ones = _flags(nodes, name + MASK, "mask", TensorProto.INT32)
        each = nodes.add("Reshape", "each", ones, _shared("flat"))
        ranks = nodes.add("CumSum", "ranks", each, _shared("axis"))
        kept = nodes.add("Gather", "values", kept, nodes.add("Mul", "places", ranks, each))
    if packing.bits == 4:
        twos = nodes.add("Reshape", "twos", kept, _shared("pairs"))
        low, high = (
            nodes.add("Gather", f"half{i}", twos, _shared(f"place.{i}"), axis=1) for i in range(2)
        )
        raised = nodes.add("BitShift", "raised", high, _shared("shift.4"), direction="LEFT")
        kept = nodes.add("BitwiseOr", "joined", low, raised)
    shape = nodes.add("Constant", "shape", value_ints=list(packing.shape))
    nodes.add("Reshape", "", kept, shape)
    return nodes.made


class _Nodes:
    """Nodes that compute a tensor."""

    def __init__(self, name: str):
        self._name = name
        self.made: list[Any] = []

    def add(self, op: str, part: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output; no part: the tensor itself."""
        from onnx import helper

        output = f"{self._name}.{part}" if part else self._name
        self.made.append(helper.make_node(op, inputs, [output], f"{NODE}/{output}", **attributes))
        return output


def _flags(nodes: _Nodes, packed: str, part: str, kind: int) -> str:
    """Take bytes, (bytes, 1), apart: 0 or 1 for each bit, (bytes, 8)."""
    from onnx import TensorProto

    bits = nodes.add("BitwiseAnd", f"{part}.bits", packed, _shared("powers"))
    flags = nodes.add("Cast", f"{part}.flags", bits, to=TensorProto.BOOL)
    return nodes.add("Cast", f"{part}.ones", flags, to=kind)


def _from_planes(nodes: _Nodes, packing: Packing, kept: str) -> str:
    """Look up elements by the numbers that stand as planes of bits; behind a mask, a zero first."""
    from onnx import TensorProto, numpy_helper

    numbers = ""
    for plane in range(packing.stored):
        own = nodes.add("Gather", f"plane{plane}", kept, _shared(f"place.{plane}"), axis=0)
        bits = _flags(nodes, own, f"plane{plane}", TensorProto.UINT8)
        if plane:
            shift = _shared(f"shift.{plane}")
            bits = nodes.add("BitShift", f"raised{plane}", bits, shift, direction="LEFT")
        numbers = nodes.add("BitwiseOr", f"up_to{plane}", numbers, bits) if numbers else bits
    numbers = nodes.add("Reshape", "numbers", numbers, _shared("flat"))
    index = nodes.add("Cast", "index", numbers, to=TensorProto.INT32)
    codes = nodes.add("Constant", "codes", value=numpy_helper.from_array(packing.codes))
    elements = nodes.add("Gather", "elements", codes, index)
    if not packing.masked:
        return elements
    zero = numpy_helper.from_array(np.array([packing.zero], np.uint8))
    first = nodes.add("Constant", "zero", value=zero)
    return nodes.add("Concat", "with_zero", first, elements, axis=0)


def _from_nibbles(nodes: _Nodes, kept: str) -> str:
    even = nodes.add("BitwiseAnd", "even", kept, _shared("low"))
    odd = nodes.add("BitShift", "odd", kept, _shared("shift.4"), direction="RIGHT")
    columns = [
        nodes.add("Unsqueeze", f"column{i}", half, _shared("last_axis"))
        for i, half in enumerate((even, odd))
    ]
    both = nodes.add("Concat", "both", *columns, axis=1)
    return nodes.add("Reshape", "nibbles", both, _shared("flat"))
