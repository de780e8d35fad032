"""Errors of the native library."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from edgeprune.runtime import library
from edgeprune.runtime.llamacpp import adapter
from edgeprune.support.errors import MachineError


def test_error_codes_become_messages(monkeypatch):
    data = np.zeros(64 * 2 * 34, np.uint8)
    packed = library.PackedMatrix("Q8_0", data, (64, 64))
    calls = {
        "ep_packed_size": lambda: library.PackedMatrix("Q8_0", data, (64, 64)),
        "ep_pack": lambda: library.PackedMatrix("Q8_0", data, (64, 64)),
        "ep_unpack": packed.unpack,
        "ep_matmul": lambda: packed.times(np.ones((2, 64))),
    }
    for name, call in calls.items():
        with monkeypatch.context() as patched:
            code = ctypes.c_size_t(-1).value if name == "ep_packed_size" else -2
            patched.setattr(library.library(), name, lambda *_, code=code: code)
            with pytest.raises(MachineError, match="Out of memory"):
                call()
    report = adapter._Report(exhausted=1)
    monkeypatch.setattr(
        adapter, "_library", lambda: SimpleNamespace(ep_llama_reported=lambda: report)
    )
    with pytest.raises(MachineError, match="1 of 3 sparse weights"):
        adapter.placed(3)
