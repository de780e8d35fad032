"""Opening ONNX models, packed ones without running their expansions inside onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.extras import load
from edgeprune.sparsity.onnx_file import OnnxFile
from edgeprune.sparsity.onnx_packed import is_packed, without_expansions


def open_session(path: Path, options: Any) -> Any:
    """An onnxruntime session on the CPU.

    A packed model would be rebuilt by onnxruntime's constant folding, all tensors at once; here its
    weights are rebuilt one by one and handed over, which takes less time and memory
    (docs/onnx.md). Any other model is opened as it stands.

    Args:
        path: the ``.onnx`` file.
        options: ``onnxruntime.SessionOptions``; given weights are added to them.

    Raises:
        InputError: a packed model is damaged.
        MachineError: onnxruntime is not installed.
    """
    onnxruntime = load("onnxruntime")
    providers = ["CPUExecutionProvider"]
    file = OnnxFile(path)
    if not is_packed(file):
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    model, arrays = without_expansions(file)
    del file
    values = [_value(onnxruntime, array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def _value(onnxruntime: Any, array: np.ndarray) -> Any:
    """Onnxruntime's view of an array, which stays where it is."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
