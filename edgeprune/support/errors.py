"""All errors that edgeprune raises on purpose, with a hint and an exit code.

::

    EdgepruneError
    ├── CheckFailed      1   zeros were lost on the way to the file
    │   └── GateFailed   1   the build is complete and a limit of its recipe did not hold
    ├── UsageError       2   an invalid option, name or recipe
    ├── InputError       3   a model, a data set or an artifact that cannot be used
    └── MachineError     4   disk, memory, a missing extra

A bug of edgeprune's own exits with 70, and its traceback is kept; an interrupted run with 130, as
a shell does for SIGINT.
"""

import difflib
import errno
import sys
from collections.abc import Iterable
from typing import Any

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
# A path that can't be what it is used as, whoever made it up.
_IMPOSSIBLE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
# What allocators say in errors of no kind of their own: torch's on the CPU, CUDA's, onnxruntime's.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Failed to allocate memory for requested buffer",
)


class EdgepruneError(Exception):
    """A failure with a message for the user: what was given, what is expected, what to do next.

    Args:
        message: what is wrong, naming what was given and what was expected.
        hint: what to do next; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.hint = hint


class CheckFailed(EdgepruneError):
    """Zeros were lost, a figure is NaN, or an accuracy or latency gate failed."""

    exit_code = 1


class GateFailed(CheckFailed):
    """The build is complete and written, but a limit of its recipe did not hold.

    Args:
        message: which limits, with the measured figures.
        hint: where to look.
        manifest: manifest of the build.
    """

    def __init__(self, message: str, hint: str, manifest: Any):
        super().__init__(message, hint)
        self.manifest = manifest


class UsageError(EdgepruneError):
    """The request itself is invalid."""

    exit_code = 2


class InputError(EdgepruneError):
    """A file or a data set cannot be used."""

    exit_code = 3


class MachineError(EdgepruneError):
    """This machine cannot do the work: disk, memory, a missing extra, a crashed runtime."""

    exit_code = 4


def unknown(kind: str, given: str, known: Iterable[str], hint: str | None = None) -> UsageError:
    """Make an error for a name that is not in a list, with the nearest names first."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    expected = (
        f"did you mean {' or '.join(near)}?" if near else f"expected one of: {', '.join(names)}."
    )
    return UsageError(f"Unknown {kind} '{given}': {expected}", hint)


def known(error: BaseException) -> EdgepruneError | None:
    """Convert an exception to an error with a message for the user; None if it is a bug of ours."""
    if isinstance(error, EdgepruneError):
        return error
    if out_of_memory(error):
        return MachineError("Out of memory.", "Use fewer --samples or a shorter --length.")
    return _of_the_system(error) if isinstance(error, OSError) else None


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on this machine or on a GPU.

    An illegal memory access or a pinned-memory error is none of these: it is a bug.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    of_onnxruntime = type(error).__module__.startswith("onnxruntime")
    if not isinstance(error, RuntimeError) and not of_onnxruntime:
        return False
    return any(words in str(error) for words in _NO_MEMORY)


def _of_the_system(error: OSError) -> EdgepruneError | None:
    """Make an error if the user can change something about a disk or a path, else None.

    A missing file is a bug here: code that reads a file named by the user reports it itself.
    """
    where = f" ({error.filename})" if error.filename else ""
    short_write = error.errno is None and "written" in str(error)  # numpy's, which names no errno
    if short_write or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return MachineError(
            f"The disk is full{where}: {error.strerror or error}.",
            "Free some space, or choose another folder with --out, and run the same command "
            "again: finished stages are kept.",
        )
    if error.errno == errno.EIO:
        return MachineError(f"The disk cannot be read or written{where}: {error.strerror}.")
    if error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError(
            f"No permission{where}: {error.strerror}.",
            "Choose another --out, or change the permissions.",
        )
    if error.filename and error.errno in _IMPOSSIBLE:
        return InputError(f"{error.strerror}{where}.", "Choose another path.")
    return None
