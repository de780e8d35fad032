"""Whether sparse weights are on in this process, and why not."""

import contextlib
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import cache_folder, read_json, sha256_file, sha256_json, write_json
from edgeprune.machine import describe
from edgeprune.runtime import adapter, native, probe


@dataclass(frozen=True)
class Status:
    """Whether models are loaded without their zeros.

    Attributes:
        on: whether they are.
        reason: why not; what was found, if they are.
        kernels: those that this processor can run, best first.
        kernel: those in use.
    """

    on: bool
    reason: str
    kernels: tuple[str, ...] = ()
    kernel: str = ""


@lru_cache
def status() -> Status:
    """Attach to llama.cpp if everything is as it should be. Must come before the first model.

    ``EDGEPRUNE_SPARSE=0`` in the environment turns sparse weights off. The probe's verdict is kept
    for this processor, this llama-cpp-python and this kernel library.
    """
    if os.environ.get("EDGEPRUNE_SPARSE") == "0":
        return Status(False, "EDGEPRUNE_SPARSE=0 is set")
    if platform.system() not in {"Linux", "Darwin"}:
        return Status(False, "llama.cpp hides what is needed on this operating system")
    try:
        kernels, kernel = tuple(native.kernels()), native.in_use()
        if not any(native.library().ep_break_even(kind) for kind in native.TYPES.values()):
            return Status(False, f"'{kernel}' kernels are slower than llama.cpp", kernels, kernel)
        verdict = _verdict(kernel)
        if not verdict["ok"]:
            return Status(False, verdict["reason"], kernels, kernel)
        adapter.attach()
    except EdgepruneError as error:
        return Status(False, str(error))
    found = f"probe: logits within {verdict['difference']:.2%} of llama.cpp's"
    return Status(True, found, kernels, kernel)


def _verdict(kernel: str) -> dict[str, Any]:
    """What the probe found here, now or before; a failure is tried again."""
    machine = describe()
    key = sha256_json(
        [machine["processor"], machine["versions"], kernel, sha256_file(native.LIBRARY)]
    )
    kept = cache_folder() / "probes" / f"{key[:16]}.json"
    verdict = read_json(kept)
    if verdict is None:
        verdict = probe.run()
        if verdict["ok"]:
            with contextlib.suppress(OSError):  # a read-only home: probed again the next time
                write_json(kept, verdict)
    return verdict
