"""Open ONNX models: unpack packed ones directly, and use sparse products for sparse weights."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.onnx.packed import is_packed, without_expansions
from edgeprune.runtime import library
from edgeprune.runtime.onnxruntime.sparse import replace_products
from edgeprune.runtime.placement import Placement
from edgeprune.support.environment import cores
from edgeprune.support.errors import MachineError
from edgeprune.support.extras import load

_PRUNED, _CODES = "edgeprune.pruned", "edgeprune.codes"  # properties of weights that may gain
_NOTHING_TO_GAIN = "no pruned weight is sparse enough and of a type that has kernels"


@dataclass(frozen=True)
class Opened:
    """A model in onnxruntime.

    Attributes:
        session: onnxruntime's ``InferenceSession``.
        sparse: placement report of its sparse weights; None if they run dense or there are none.
        off: why sparse weights run dense; empty if they run sparse.
    """

    session: Any
    sparse: Placement | None = None
    off: str = ""


def open_session(path: Path, options: Any) -> Opened:
    """Open an onnxruntime session on the CPU.

    Pruned weights are multiplied by without their zeros where that is faster, and those of few
    codes in these, which ``EDGEPRUNE_SPARSE=0`` in the environment turns off. A packed model would
    be rebuilt by onnxruntime's constant folding, all tensors at once; here its weights are rebuilt
    one by one and handed over, which takes less time and memory (docs/measured/onnx.md). Any other
    model is opened as it stands.

    Args:
        path: the ``.onnx`` file.
        options: ``onnxruntime.SessionOptions``; operators and weights are added to them.

    Raises:
        InputError: a packed model is damaged.
        MachineError: onnxruntime is not installed.
    """
    onnxruntime = load("onnxruntime")
    providers = ["CPUExecutionProvider"]
    file = OnnxFile(path)
    pruned = {
        tensor.name
        for tensor in file.tensors
        if tensor.properties.get(_PRUNED) or tensor.properties.get(_CODES)
    }
    off = _why_not(options) if pruned else ""
    if (off or not pruned) and not is_packed(file):
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        return Opened(session, off=off)
    model, readers = without_expansions(file)
    given: dict[str, np.ndarray] = {}
    sparse = None
    if pruned and not off:
        threads = options.intra_op_num_threads or cores()
        given, sparse = replace_products(model, readers, pruned, threads)
        if not given:
            off = _NOTHING_TO_GAIN
            if not is_packed(file):  # onnxruntime maps the file, which is cheaper than ours
                session = onnxruntime.InferenceSession(str(path), options, providers=providers)
                return Opened(session, off=off)
    given |= {name: np.ascontiguousarray(read()) for name, read in readers.items()}
    _declare(model, given)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in given.values()]
    options.add_external_initializers(list(given), values)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return Opened(session, sparse if sparse and sparse.tensors else None, off)


def _why_not(options: Any) -> str:
    """Register the operator, or say why sparse products cannot be used here."""
    if os.environ.get("EDGEPRUNE_SPARSE") == "0":
        return "EDGEPRUNE_SPARSE=0 is set"
    try:
        library.library()
        options.register_custom_ops_library(str(library.LIBRARY))
    except MachineError as error:
        return str(error)
    except Exception as error:  # onnxruntime has kinds of its own
        return f"onnxruntime rejects the kernel library: {error}"
    return ""


def _declare(model: Any, given: dict[str, np.ndarray]) -> None:
    """Make initializers whose values are passed in beside the graph."""
    from onnx import TensorProto, helper

    for name, array in given.items():
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in {"location": "given", "offset": 0, "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
