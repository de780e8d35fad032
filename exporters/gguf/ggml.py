"""ggml's own quantisers, called in the library that llama-cpp-python ships.

`ggml_quantize_chunk` is what llama-quantize calls for each tensor: same bytes, no file in between,
every type, and an importance for every input channel.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from edgeprune.support.errors import MachineError

_LIBRARIES = ("libggml-base.so.0", "libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
_FLOATS = ctypes.POINTER(ctypes.c_float)


def quantize(
    values: np.ndarray, kind: GGMLQuantizationType, importance: np.ndarray | None = None
) -> np.ndarray:
    """Encode float32 rows as a GGUF type, in the calling thread.

    Args:
        values: (rows, columns), or of any shape for F32; columns divide by the type's block size.
        kind: GGUF type.
        importance: (columns,) weight of each input channel's squared error; None: all equal.

    Returns:
        (rows, bytes) uint8, or float32 values for F32.

    Raises:
        MachineError: llama-cpp-python is not installed, or the type needs an importance.
    """
    if kind == GGMLQuantizationType.F32:
        return values
    library = find()
    if library is None or kind in (GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        return _in_numpy(values, kind).view(np.uint8)
    rows, columns = values.shape
    library.ggml_quantize_init(int(kind))
    if importance is None and library.ggml_quantize_requires_imatrix(int(kind)):
        importance = np.ones(columns, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    values = np.ascontiguousarray(values, np.float32)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    result = np.empty((rows, columns // block * block_bytes), np.uint8)
    library.ggml_quantize_chunk(  # ctypes lets go of the interpreter's lock
        int(kind), values.ctypes.data_as(_FLOATS), result.ctypes.data, 0, rows, columns,
        None if weights is None else weights.ctypes.data_as(_FLOATS),
    )  # fmt: skip
    return result


@cache
def find() -> ctypes.CDLL | None:
    """Load ggml's base library; None if llama-cpp-python is not installed."""
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "lib"
    path = next((folder / name for name in _LIBRARIES if (folder / name).is_file()), None)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, _FLOATS, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        _FLOATS,
    ]  # fmt: skip
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    return library


def _in_numpy(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        raise MachineError(
            f"Quantising to {kind.name} needs ggml, which comes with llama-cpp-python.",
            "pip install 'edgeprune[gguf]'",
        ) from None
