"""Writers of artifacts: one folder a target, one line here."""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgeprune.support.errors import unknown

if TYPE_CHECKING:
    from exporters.base import Exporter

_MODULES = {
    "gguf": "exporters.gguf",
    "onnx": "exporters.onnx",
    "transformers": "exporters.transformers",
}
TARGETS = tuple(_MODULES)


def get(target: str) -> "Exporter":
    """A target's exporter; libraries that it needs are imported when it works.

    Raises:
        UsageError: there is no such target; names those there are.
    """
    if target not in _MODULES:
        raise unknown("target", target, TARGETS)
    return cast("Exporter", import_module(_MODULES[target]).EXPORTER)
