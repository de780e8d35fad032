"""The library that any llama.cpp on Linux loads to run sparse weights (``llamacpp/plugin``)."""

import platform
from pathlib import Path

from edgeprune.support.errors import MachineError

VARIABLE = "GGML_BACKEND_PATH"  # that llama.cpp reads when it starts
PLUGIN = Path(__file__).with_name("libggml-edgeprune.so")


def path() -> Path:
    """Find the library.

    Raises:
        MachineError: this is not Linux, or the library was not compiled.
    """
    if platform.system() != "Linux":
        raise MachineError("The library for other programs is built for Linux alone.")
    if not PLUGIN.exists():
        raise MachineError(
            "The library for other programs is missing: it failed to compile when edgeprune was "
            "installed.",
            "Install a C++17 compiler, then: pip install --force-reinstall --no-cache-dir -v "
            "edgeprune",
        )
    return PLUGIN


def environment() -> dict[str, str]:
    """Return the environment in which llama.cpp loads it.

    Raises:
        MachineError: as `path`.
    """
    return {VARIABLE: str(path())}
