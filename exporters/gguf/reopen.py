"""Open a GGUF artifact in transformers, whose own loader knows nothing of how it was written."""

from pathlib import Path
from typing import Any

from edgeprune.models.from_gguf import read_model
from exporters.base import Model


def reopen(path: Path, model: Model) -> Any:  # a GGUF file says all of itself
    """See `exporters.base.Exporter.reopen`."""
    return read_model(path)
