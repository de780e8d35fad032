"""A C ``FILE *`` that reads its bytes from Python (fopencookie of glibc and musl)."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Reads below this come through the C library's buffer, which is made as large.
_BUFFER = 1 << 20
_FULLY_BUFFERED = 0

_READ = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_SEEK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int
)


class _Functions(ctypes.Structure):
    _fields_ = (
        ("read", _READ),
        ("write", ctypes.c_void_p),
        ("seek", _SEEK),
        ("close", ctypes.c_void_p),
    )


@dataclass
class CFile:
    """An open stream.

    Attributes:
        pointer: the ``FILE *``.
        failure: exception from ``read`` (including Ctrl-C), if any; C only sees a failed read.
    """

    pointer: int = 0
    failure: BaseException | None = None


def available() -> bool:
    """Tell whether the C library supports such streams; macOS and Windows do not."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "fopencookie")


@contextmanager
def as_c_file(size: int, read: Callable[[int, int], bytes]) -> Iterator[CFile]:
    """Open a stream for reading.

    Args:
        size: size of the content in bytes.
        read: reads bytes from an offset, as many as requested or to the end.
    """
    library = ctypes.CDLL(None)
    library.fopencookie.restype = ctypes.c_void_p
    library.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Functions]
    library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    library.fclose.argtypes = [ctypes.c_void_p]
    opened, position = CFile(), 0

    def on_read(_cookie: int, buffer: int, count: int) -> int:
        nonlocal position
        try:
            data = read(position, count)
        except BaseException as error:  # nothing may pass through C
            opened.failure = error
            return -1
        ctypes.memmove(buffer, data, len(data))
        position += len(data)
        return len(data)

    def on_seek(_cookie: int, offset: "ctypes._Pointer[ctypes.c_int64]", whence: int) -> int:
        nonlocal position
        wanted = offset[0] + (0, position, size)[whence]
        if not 0 <= wanted <= size:
            return -1
        position = offset[0] = wanted
        return 0

    functions = _Functions(_READ(on_read), None, _SEEK(on_seek), None)
    pointer = library.fopencookie(None, b"rb", functions)
    if not pointer:
        raise MemoryError("the C library ran out of memory for a stream")
    opened.pointer = pointer
    buffer = ctypes.create_string_buffer(_BUFFER)  # without one, the C library ignores the size
    library.setvbuf(pointer, buffer, _FULLY_BUFFERED, _BUFFER)
    try:
        yield opened
    finally:
        library.fclose(pointer)
