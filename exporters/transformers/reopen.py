"""Open a transformers artifact."""

from pathlib import Path
from typing import Any

from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_model
from exporters.base import Model


def reopen(path: Path, model: Model) -> Any:  # the folder has all
    """See `exporters.base.Exporter.reopen`."""
    import torch

    return load_model(Checkpoint("", str(path), path, ""), torch.float32)
