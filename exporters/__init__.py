"""Writers of artifacts: one folder a target, one line here."""

from importlib import import_module
from types import ModuleType

_TARGETS = {"gguf": "exporters.gguf", "onnx": "exporters.onnx"}


def get(target: str) -> ModuleType:
    """A target's package, imported when used: ``check``, ``grids``, ``steps`` and ``export``."""
    return import_module(_TARGETS[target])
