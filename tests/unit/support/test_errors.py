"""Which errors are the user's or the machine's, and which are bugs that keep their traceback."""

import errno
import os

import numpy as np
import pytest
import torch

from edgeprune.support.errors import InputError, MachineError, known


def raised(call) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return caught.value


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.empty(1 << 50, dtype=torch.uint8),
        lambda: np.ones(1 << 50),
        lambda: bytearray(1 << 50),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried ...")),
        lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_what_allocators_say_is_out_of_memory(call):
    told = known(raised(call))
    assert isinstance(told, MachineError)
    assert "Out of memory" in str(told)


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU memory can be pinned"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "builds/x/work/rows.json"),
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        OSError("something of a library's own"),
        PermissionError(errno.EPERM, os.strerror(errno.EPERM)),  # of no file
    ],
)
def test_bugs_are_no_mistakes_of_the_user(bug):
    assert known(bug) is None


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, MachineError, "disk is full"),
        (errno.EDQUOT, MachineError, "disk is full"),
        (errno.EROFS, MachineError, "No permission"),
        (errno.EACCES, MachineError, "No permission"),
        (errno.ENOTDIR, InputError, "Not a directory"),
    ],
)
def test_disks_and_permissions_are_told(code, kind, words):
    told = known(OSError(code, os.strerror(code), "/mnt/usb/out"))
    assert isinstance(told, kind)
    assert words in str(told)
    assert "/mnt/usb/out" in str(told)
