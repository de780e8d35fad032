"""``.packed.onnx``: a model whose initializers are stored in the codes that they use.

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
from edgeprune.formats.onnx.expansion import KEPT, MASK, NODE, constants, expansion
from edgeprune.formats.onnx.file import PACKING, OnnxFile
from edgeprune.formats.onnx.packing import Packing, read_packing, smallest
from edgeprune.formats.onnx.packing import pack as pack_array
from edgeprune.support.errors import CheckFailed, UsageError

# Type of a weight -> bits of an element, and the element that is a zero.
_ELEMENTS = {"FP32": (32, 0), "FP16": (16, 0), "INT8": (8, 128), "INT4": (4, 8)}
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
    chosen = dict(_packings(file))
    if not chosen:
        raise UsageError(
            f"Packing would not make any tensor of {source} smaller: it has too few zeros, and too "
            "many codes are used.",
            "Pack a model that 'edgeprune build' has pruned.",
        )
    model, nodes, tensors = file.model, [], []
    before, after = sum(file.array(name).nbytes for name in chosen), 0
    original = list(model.graph.initializer)
    with atomic_model(target) as temporary:
        data = temporary.with_name(f"{target.name}.data")
        with ExternalData(data, data.name) as external:
            for tensor in original:
                own = {p.key: p.value for p in tensor.metadata_props}
                if tensor.name in chosen:
                    packing, array = chosen[tensor.name], file.array(tensor.name)
                    mask, kept = pack_array(np.asarray(array), packing)
                    own[PACKING] = packing.to_json()
                    if mask is not None:
                        tensors.append(external.add(tensor.name + MASK, mask[:, None], {}))
                    tensors.append(external.add(tensor.name + KEPT, kept, own))
                    nodes += expansion(tensor.name, packing)
                    after += kept.nbytes + (0 if mask is None else mask.nbytes)
                elif tensor.data_location == TensorProto.EXTERNAL:
                    tensors.append(external.add(tensor.name, file.array(tensor.name), own))
                else:
                    tensors.append(tensor)
                advance(file.array(tensor.name).nbytes)
        temporary.write_bytes(_with(model, tensors, nodes).SerializeToString())
        _check(file, OnnxFile(temporary), list(chosen))
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
    packed.graph.initializer.extend([*tensors, *constants()])
    packed.graph.node.extend([*nodes, *model.graph.node])
    return packed


def _packings(file: OnnxFile) -> Iterator[tuple[str, Packing]]:
    """Yield names of tensors that packing makes smaller, and how."""
    for tensor in file.tensors:
        if len(tensor.shape) < 2 or tensor.type not in _ELEMENTS:
            continue
        array, (bits, zero) = np.asarray(file.array(tensor.name)), _ELEMENTS[tensor.type]
        if array.size * (2 if bits == 4 else 1) % 8 == 0:
            packing, size = smallest(array, bits, zero)
            if size < array.nbytes:
                yield tensor.name, packing


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
        if tensor.name in parts or tensor.name.startswith(NODE):
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            arrays[tensor.name] = partial(file.array, tensor.name)
        else:
            kept.append(tensor)
    nodes = [node for node in model.graph.node if not node.name.startswith(f"{NODE}/")]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model, arrays
