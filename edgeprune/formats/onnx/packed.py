"""``.packed.onnx``: a model whose sparse initializers are stored without their zeros.

Any onnxruntime opens it: nodes of standard operators rebuild the dense tensors, and constant
folding runs them once, when a session is made. docs/measured/onnx.md has what that costs in time
and memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.formats.onnx.data import ExternalData, atomic_model
from edgeprune.formats.onnx.file import KEPT, MASK, PACKING, OnnxFile, OnnxTensor
from edgeprune.formats.onnx.packing import Packing, packed_bytes, read_packing
from edgeprune.formats.onnx.packing import pack as pack_array
from edgeprune.support.errors import CheckFailed, UsageError

# Type of a weight -> bits of an element, and the element that is a zero.
_ELEMENTS = {"FP32": (32, 0), "FP16": (16, 0), "INT8": (8, 128), "INT4": (4, 8)}
_NODE = "edgeprune.expand"
Advance = Callable[[int], None]


def total_bytes(path: Path) -> int:
    """Return the bytes of a model with its external data, which must be valid."""
    return sum(part.stat().st_size for part in OnnxFile(path).files)


def is_packed(file: OnnxFile) -> bool:
    """Tell whether initializers of a model are packed."""
    return any(PACKING in tensor.properties for tensor in file.tensors)


def pack(source: Path, target: Path, advance: Advance = lambda _bytes: None) -> dict[str, int]:
    """Write ``target`` and its data, and check that they restore the source's weights.

    Args:
        source: an ``.onnx`` file.
        target: appears only if unpacking it gives the source's weights, bit for bit.
        advance: called with the number of source bytes packed.

    Returns:
        ``bytes`` of the source's files and of the target's as ``packed_bytes``; ``tensors`` that
        were packed, their size before as ``tensor_bytes`` and after as
        ``packed_tensor_bytes``.

    Raises:
        UsageError: the source is already packed, or has no zeros worth packing.
        InputError: it is not a valid ONNX file.
    """
    from onnx import TensorProto

    file = OnnxFile(source)
    if is_packed(file) or file.lists_weights:
        raise UsageError(f"{source} is already packed.")
    chosen = {tensor.name: tensor for tensor in file.tensors if _gains(file, tensor)}
    if not chosen:
        raise UsageError(
            f"Packing would not make any tensor of {source} smaller: it has too few zeros.",
            "Pack a model that 'edgeprune build' has pruned.",
        )
    model, nodes, tensors, after = file.model, [], [], 0
    original = list(model.graph.initializer)
    with atomic_model(target) as temporary:
        data = temporary.with_name(f"{target.name}.data")
        with ExternalData(data, data.name) as external:
            for tensor in original:
                own = {p.key: p.value for p in tensor.metadata_props}
                if tensor.name in chosen:
                    packing, mask, kept = _packed(file, chosen[tensor.name])
                    own[PACKING] = packing.to_json()
                    tensors.append(external.add(tensor.name + MASK, mask[:, None], {}))
                    tensors.append(external.add(tensor.name + KEPT, kept, own))
                    nodes += list(_expansion(tensor.name, packing))
                    after += mask.nbytes + kept.nbytes
                elif tensor.data_location == TensorProto.EXTERNAL:
                    tensors.append(external.add(tensor.name, file.array(tensor.name), own))
                else:
                    tensors.append(tensor)
                advance(file.array(tensor.name).nbytes)
        temporary.write_bytes(_with(model, tensors, nodes).SerializeToString())
        _check(file, OnnxFile(temporary), list(chosen))
    before = sum(file.array(name).nbytes for name in chosen)
    return {
        "bytes": sum(path.stat().st_size for path in file.files),
        "packed_bytes": sum(path.stat().st_size for path in OnnxFile(target).files),
        "tensors": len(chosen),
        "tensor_bytes": before,
        "packed_tensor_bytes": after,
    }


def _with(model: Any, tensors: list[Any], nodes: list[Any]) -> Any:
    """Build the model with packed initializers, and nodes in front that unpack them."""
    packed = type(model)()
    packed.CopyFrom(model)
    del packed.graph.initializer[:], packed.graph.node[:]
    packed.graph.initializer.extend([*tensors, *_constants()])
    packed.graph.node.extend([*nodes, *model.graph.node])
    return packed


def _gains(file: OnnxFile, tensor: OnnxTensor) -> bool:
    if len(tensor.shape) < 2 or tensor.type not in _ELEMENTS:
        return False
    bits, zero = _ELEMENTS[tensor.type]
    array = file.array(tensor.name)
    if array.size * (2 if bits == 4 else 1) % 8:
        return False
    kept = _count_kept(array, bits, zero)
    return packed_bytes(array, bits, kept) < array.nbytes


def _count_kept(array: np.ndarray, bits: int, zero: int) -> int:
    if bits == 4:
        return int(np.count_nonzero(array & 15 != zero) + np.count_nonzero(array >> 4 != zero))
    # A negative zero is another element than the one that is left out.
    unsigned = array.view({32: np.uint32, 16: np.uint16, 8: np.uint8}[bits])
    return int(np.count_nonzero(unsigned != zero))


def _packed(file: OnnxFile, tensor: OnnxTensor) -> tuple[Packing, np.ndarray, np.ndarray]:
    return pack_array(np.asarray(file.array(tensor.name)), *_ELEMENTS[tensor.type])


def _check(source: OnnxFile, packed: OnnxFile, names: list[str]) -> None:
    properties = {tensor.name: tensor.properties for tensor in packed.tensors}

    for name in names:
        again = packed.unpacked(name, read_packing(properties[name][PACKING]))
        expected = source.array(name)
        if again.tobytes() != expected.tobytes():
            raise CheckFailed(
                f"{name} cannot be restored from its packed form.",
                "This is a bug in edgeprune; please report it.",
            )


def _constants() -> list[Any]:
    """Make the initializers that all expansions share."""
    from onnx import numpy_helper

    values = {
        "powers": np.array([[1, 2, 4, 8, 16, 32, 64, 128]], np.uint8),
        "flat": np.array([-1]),
        "axis": np.array(0),
        "low": np.array(15, np.uint8),
        "four": np.array(4, np.uint8),
        "pairs": np.array([-1, 2]),
        "first": np.array(0),
        "second": np.array(1),
        "last_axis": np.array([1]),
    }
    return [numpy_helper.from_array(v, f"{_NODE}.{name}") for name, v in values.items()]


def _expansion(name: str, packing: Packing) -> Iterator[Any]:
    """Make nodes that compute ``name`` from its mask and its kept elements.

    An element's place among the kept ones is the number of mask bits up to it, and 0, where the
    zero stands, if its own bit is not set. (`Where` would be plainer, and onnxruntime has none for
    float16 on CPUs.)
    """
    from onnx import TensorProto, helper

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        given = [i if i.startswith(name) else f"{_NODE}.{i}" for i in inputs]
        return helper.make_node(op, given, [output], f"{_NODE}/{output}", **attributes)

    def temporary(part: str) -> str:
        return f"{name}.{part}"

    yield node("BitwiseAnd", [name + MASK, "powers"], temporary("bits"))
    yield node("Cast", [temporary("bits")], temporary("flags"), to=TensorProto.BOOL)
    yield node("Cast", [temporary("flags")], temporary("ones"), to=TensorProto.INT32)
    yield node("Reshape", [temporary("ones"), "flat"], temporary("each"))
    yield node("CumSum", [temporary("each"), "axis"], temporary("ranks"))
    yield node("Mul", [temporary("ranks"), temporary("each")], temporary("places"))
    kept = name + KEPT
    if packing.bits == 4:
        yield from _nibbles(node, temporary, kept)
        kept = temporary("elements")
    yield node("Gather", [kept, temporary("places")], temporary("flat_values"))
    flat = temporary("flat_values")
    if packing.bits == 4:
        yield node("Reshape", [flat, "pairs"], temporary("twos"))
        yield node("Gather", [temporary("twos"), "first"], temporary("low"), axis=1)
        yield node("Gather", [temporary("twos"), "second"], temporary("high"), axis=1)
        yield node("BitShift", [temporary("high"), "four"], temporary("raised"), direction="LEFT")
        yield node("BitwiseOr", [temporary("low"), temporary("raised")], temporary("joined"))
        flat = temporary("joined")
    yield helper.make_node(
        "Constant", [], [temporary("shape")], f"{_NODE}/{temporary('shape')}",
        value_ints=list(packing.shape),
    )  # fmt: skip
    yield node("Reshape", [flat, temporary("shape")], name)


def _nibbles(node: Callable[..., Any], temporary: Callable[[str], str], kept: str) -> Iterator[Any]:
    yield node("BitwiseAnd", [kept, "low"], temporary("even"))
    yield node("BitShift", [kept, "four"], temporary("odd"), direction="RIGHT")
    yield node("Unsqueeze", [temporary("even"), "last_axis"], temporary("even_column"))
    yield node("Unsqueeze", [temporary("odd"), "last_axis"], temporary("odd_column"))
    columns = [temporary("even_column"), temporary("odd_column")]
    yield node("Concat", columns, temporary("both"), axis=1)
    yield node("Reshape", [temporary("both"), "flat"], temporary("elements"))


def without_expansions(file: OnnxFile) -> tuple[Any, dict[str, Callable[[], np.ndarray]]]:
    """Restore a graph with plain initializers, for a loader that passes in the weights.

    Returns:
        The graph without the nodes that expand, and without the initializers that are packed or
        stand beside it; and these by name, each read when it is called.
    """
    from onnx import TensorProto

    model = type(file.model)()
    model.CopyFrom(file.model)
    arrays: dict[str, Callable[[], np.ndarray]] = {}
    for tensor in file.tensors:
        if text := tensor.properties.get(PACKING):
            arrays[tensor.name] = partial(file.unpacked, tensor.name, read_packing(text))
    parts = {name + end for name in arrays for end in (MASK, KEPT)}
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name in parts or tensor.name.startswith(_NODE):
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            arrays[tensor.name] = partial(file.array, tensor.name)
        else:
            kept.append(tensor)
    nodes = [node for node in model.graph.node if not node.name.startswith(f"{_NODE}/")]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model, arrays
