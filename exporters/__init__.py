"""Writers of artifacts: one folder a target, one line here."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.artifact import Artifact

_TARGETS = {"gguf": "exporters.gguf"}


def get(target: str) -> Callable[..., "Artifact"]:
    """The ``export`` function of a target; imported when used."""
    return import_module(_TARGETS[target]).export
