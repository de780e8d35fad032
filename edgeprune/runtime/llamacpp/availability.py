"""The status of sparse weights in this process."""

import contextlib
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeprune.runtime import library
from edgeprune.runtime.llamacpp import adapter, probe
from edgeprune.support.environment import describe
from edgeprune.support.errors import EdgepruneError
from edgeprune.support.files import cache_folder, read_json, sha256_file, sha256_json, write_json


@dataclass(frozen=True)
class Status:
    """Whether models are loaded without their zeros, and why not.

    Attributes:
        on: whether sparse weights are on.
        reason: why they are off, or the probe's result if they are on.
        kernels: kernels that this processor can run, best first.
        kernel: kernels in use.
    """

    on: bool
    reason: str
    kernels: tuple[str, ...] = ()
    kernel: str = ""


@lru_cache
def status() -> Status:
    """Attach to llama.cpp if it passes all checks; call this before loading the first model.

    In the environment, ``EDGEPRUNE_KERNEL`` chooses kernels by name and ``EDGEPRUNE_SPARSE=0``
    turns sparse weights off. The probe's verdict is kept for this processor, this llama-cpp-python
    and this kernel library.
    """
    if os.environ.get("EDGEPRUNE_SPARSE") == "0":
        return Status(False, "EDGEPRUNE_SPARSE=0 is set")
    if platform.system() not in {"Linux", "Darwin"}:
        return Status(
            False, "llama.cpp does not export the required symbols on this operating system"
        )
    try:
        adapter.check()
        kernels, kernel = tuple(library.kernels()), library.in_use()
        if reason := _no_use(kernels, kernel) or _failure(verdict := _verdict(kernel)):
            return Status(False, reason, kernels, kernel)
        adapter.attach()
    except EdgepruneError as error:
        return Status(False, str(error))
    found = f"probe: logits within {verdict['difference']:.2%} of llama.cpp's"
    if newer := adapter.untested():
        found += f"; llama-cpp-python {newer} is newer than those tested"
    return Status(True, found, kernels, kernel)


def _no_use(kernels: tuple[str, ...], kernel: str) -> str:
    asked = os.environ.get("EDGEPRUNE_KERNEL")
    if asked and asked != kernel:
        return (
            f"this processor cannot run EDGEPRUNE_KERNEL={asked}; it can run {', '.join(kernels)}"
        )
    if not any(library.break_even(kind) for kind in library.TYPES):
        return f"'{kernel}' kernels are slower than llama.cpp"
    return ""


def _failure(verdict: dict[str, Any]) -> str:
    return "" if verdict["ok"] else verdict["reason"]


def fingerprint() -> dict[str, Any]:
    """Return what decides how weights run here, without loading anything, for cache keys."""
    names = ("EDGEPRUNE_SPARSE", "EDGEPRUNE_KERNEL", "EDGEPRUNE_LAYOUT")
    digest = sha256_file(library.LIBRARY) if library.LIBRARY.exists() else None
    return {"library": digest} | {name: os.environ.get(name) for name in names}


def _verdict(kernel: str) -> dict[str, Any]:
    """Return the probe's result, now or from the cache; a failure is tried again."""
    machine = describe()
    installed = find_spec("llama_cpp")
    folder = Path(installed.origin or "").parent if installed else Path()
    binaries = sorted(folder.glob("lib/*"))
    llama = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in binaries]
    digest = sha256_file(library.LIBRARY)
    key = sha256_json([machine["processor"], machine["versions"], llama, kernel, digest])
    kept = cache_folder() / "probes" / f"{key[:16]}.json"
    verdict = read_json(kept)
    if not isinstance(verdict, dict) or "difference" not in verdict:
        verdict = probe.run()
        if verdict["ok"]:
            with contextlib.suppress(OSError):  # a read-only home: probed again the next time
                write_json(kept, verdict)
    return verdict
