"""The kernel library (``kernels/``) by ctypes: packing, products, and choice of kernels.

Signatures are those of ``kernels/edgeprune_kernels.h``, which documents each function.
"""

import ctypes
import platform
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeprune.formats.forms import Form
from edgeprune.support.environment import cores
from edgeprune.support.errors import MachineError

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30}  # ggml's numbers
SPARSE, DENSE, NARROW, MASKED = range(4)  # ep_layout
_NO_MEMORY, _NO_SIZE = -2, ctypes.c_size_t(-1).value  # EP_NO_MEMORY, EP_NO_SIZE

_SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
LIBRARY = Path(__file__).with_name(f"libedgeprune_runtime{_SUFFIX}")


class Shape(ctypes.Structure):
    """``ep_shape``: type, layout, code width, scale groups, rows (outputs), columns (inputs)."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
    )


class FileForm(ctypes.Structure):
    """``ep_form``: how a tensor stands in a packed file."""

    _fields_ = (("bits", ctypes.c_int32), ("masked", ctypes.c_int32), ("group", ctypes.c_int32))

    @classmethod
    def of(cls, form: Form) -> "FileForm":
        """Convert a form."""
        return cls(form.bits, form.masked + form.two_of_four, form.group)


def shape_of(kind: str, shape: tuple[int, int], form: Form) -> Shape | None:
    """Choose the layout in memory for a tensor of a form; None if there are no kernels for it.

    Args:
        kind: ggml's name of its type: a key of `TYPES`.
        shape: (out, in).
        form: how its codes can stand.
    """
    found = Shape()
    none = library().ep_shape_of(TYPES[kind], *shape, FileForm.of(form), found)
    return None if none else found


@lru_cache
def library() -> ctypes.CDLL:
    """Load the library once.

    Raises:
        MachineError: it was not compiled when edgeprune was installed, or cannot be loaded.
    """
    if not LIBRARY.exists():
        raise MachineError(
            "The kernel library is missing: it failed to compile when edgeprune was installed.",
            "Install a C++17 compiler, then: pip install --force-reinstall --no-cache-dir -v "
            "edgeprune",
        )
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise MachineError(f"The kernel library cannot be loaded: {error}.") from None
    shape, pointer, size = ctypes.POINTER(Shape), ctypes.c_void_p, ctypes.c_size_t
    form = ctypes.POINTER(FileForm)
    number, whole = ctypes.c_int64, ctypes.c_int
    for name, result, arguments in (
        ("ep_packable", whole, (shape,)),
        ("ep_shape_of", whole, (whole, number, number, form, shape)),
        ("ep_packed_size", size, (shape, pointer, whole)),
        ("ep_pack", whole, (shape, pointer, pointer, size, whole)),
        ("ep_packed_size_of_count", size, (shape, number)),
        ("ep_packed_size_of_file", size, (shape, form, pointer, size, whole)),
        ("ep_pack_file", whole, (shape, form, pointer, size, pointer, size, whole)),
        ("ep_unpack", whole, (shape, pointer, pointer, whole)),
        (
            "ep_matmul",
            whole,
            (shape, pointer, pointer, number, pointer, number, number, whole),
        ),
        ("ep_kernels", ctypes.c_char_p, ()),
        ("ep_use", whole, (ctypes.c_char_p,)),
        ("ep_in_use", ctypes.c_char_p, ()),
        ("ep_row", whole, (shape, pointer, number, pointer)),
        ("ep_break_even", ctypes.c_float, (whole,)),
        ("ep_dense_gains", whole, (whole,)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def enough(result: int) -> int:
    """Check what a function of the library returned.

    Raises:
        MachineError: it ran out of memory.
    """
    if result in (_NO_MEMORY, _NO_SIZE):
        raise MachineError(
            "Out of memory while packing, unpacking or multiplying sparse weights.",
            "Close other programs, or use a smaller model.",
        )
    return result


def kernels() -> list[str]:
    """List the kernels that this processor can run, best first."""
    return library().ep_kernels().decode().split()


def in_use() -> str:
    """Return the name of the kernels in use."""
    return library().ep_in_use().decode()


def use(name: str = "") -> None:
    """Use kernels by name, or the best; ``EDGEPRUNE_KERNEL`` in the environment does the same.

    Raises:
        MachineError: there are no such kernels, or this processor cannot run them.
    """
    if library().ep_use(name.encode()):
        raise MachineError(
            f"This machine has no kernels '{name}'.", f"Available: {', '.join(kernels())}."
        )


def break_even(kind: str) -> float:
    """Return the density above which a matrix of a type gains nothing from leaving zeros out."""
    return library().ep_break_even(TYPES[kind])


def dense_gains(kind: str) -> bool:
    """Tell whether dense matrices of a type gain from the kernels in use beside llama.cpp's own."""
    return bool(library().ep_dense_gains(TYPES[kind]))


def narrow_gains() -> bool:
    """Tell whether the kernels in use are faster with few codes: plain C++ is not."""
    return in_use() != "portable"


class PackedMatrix:
    """A packed matrix, ready for products.

    Args:
        kind: ggml's name of its type: a key of `TYPES`.
        data: bytes of a GGUF tensor, uint8.
        shape: (out, in); in is a multiple of 32.
        layout: `SPARSE`: without its zeros; `DENSE`: with them; `NARROW` or `MASKED`, of a tensor
            that uses few codes.
        bits: bits of a code, for the last two.
        group: number of blocks that share a scale.

    Attributes:
        packed: packed bytes, (bytes,) uint8, in the format of ``kernels/layout.h``.

    Raises:
        ValueError: there is no such layout for a matrix of this shape, or for its codes or scales.
    """

    def __init__(
        self,
        kind: str,
        data: np.ndarray,
        shape: tuple[int, int],
        layout: int = SPARSE,
        bits: int = 0,
        group: int = 1,
    ):
        self.shape = Shape(TYPES[kind], layout, bits, group, *shape)
        if not library().ep_packable(self.shape):
            raise ValueError(f"a {kind} matrix of shape {shape} cannot be packed")
        self._source_bytes = data.nbytes
        source, threads = np.ascontiguousarray(data).ctypes.data, cores()
        size = enough(library().ep_packed_size(self.shape, source, threads))
        self.packed = np.empty(size, np.uint8)
        if enough(library().ep_pack(self.shape, source, self.packed.ctypes.data, size, threads)):
            raise ValueError(f"the layout has not all codes or scales of a {kind} matrix")

    def times(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """Compute outputs for activations.

        Args:
            x: (tokens, in) float32.
            threads: number of threads.

        Returns:
            (tokens, out) float32.
        """
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty((len(x), self.shape.rows), np.float32)
        enough(library().ep_matmul(
            self.shape, self.packed.ctypes.data, x.ctypes.data, x.shape[1], y.ctypes.data,
            y.shape[1], len(x), threads,
        ))  # fmt: skip
        return y

    def row(self, index: int) -> np.ndarray:
        """Look up a row, (in,) float32.

        Raises:
            IndexError: there is no such row, or the layout leaves zeros out.
        """
        found = np.empty(self.shape.cols, np.float32)
        if library().ep_row(self.shape, self.packed.ctypes.data, index, found.ctypes.data):
            raise IndexError(f"row {index} cannot be looked up")
        return found

    def unpack(self) -> np.ndarray:
        """Restore the bytes of the GGUF tensor, (bytes,) uint8."""
        data = np.empty(self._source_bytes, np.uint8)
        enough(library().ep_unpack(self.shape, self.packed.ctypes.data, data.ctypes.data, cores()))
        return data
