"""Keeps this process and its children from AMX, which torch and llama.cpp can't share.

Tests run both in one process (builds run llama.cpp in one of its own). llama.cpp sets its tile
registers up once a thread, oneDNN inside torch gives them back, and llama.cpp's next product dies
of an illegal instruction. Linux lets a process use AMX after it asks; here a seccomp filter has the
answer be no, and both libraries fall back to AVX-512.
"""

import ctypes
import platform
import struct
import sys

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl
_ARCH_PRCTL, _ASK_FOR_REGISTERS = 158, 0x1023  # its number on x86-64, and ARCH_REQ_XCOMP_PERM
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # with EPERM
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # instructions of the classic BPF


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def refuse() -> None:
    """Do it where it is needed, on Linux on x86-64."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return
    steps = [
        (_LOAD, 0, 0, 0),  # the system call's number
        (_EQUAL, 0, 3, _ARCH_PRCTL),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 0, 1, _ASK_FOR_REGISTERS),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(program), 0, 0)
