"""Writers of artifacts: each target is one folder and one line here."""

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
    """Return a target's exporter, which imports the libraries it needs when used.

    Raises:
        UsageError: there is no such target; the message lists the targets.
    """
    if target not in _MODULES:
        raise unknown("target", target, TARGETS)
    return cast("Exporter", import_module(_MODULES[target]).EXPORTER)
