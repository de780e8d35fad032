"""ONNX models in tests."""

from pathlib import Path

import numpy as np

from edgeprune.formats.metadata import SparsityMetadata
from exporters.base import Model, StorageRequest
from tests.support.exporting import export_onnx

IDS = [5, 100, 20, 30, 17, 9, 44, 71]


PRECISIONS = ["fp32", "fp16", "int8", "int4"]


def save(model: Model, path: Path, metadata=None, **storage) -> Path:
    """Export with these fields of a `StorageRequest`."""
    export_onnx(model, StorageRequest(**storage), path, metadata)
    return path


def close(found: np.ndarray, expected: np.ndarray, share: float) -> bool:
    return float(np.abs(found - expected).max() / np.abs(expected).max()) < share


METADATA = SparsityMetadata("2:4", 0.5, "wanda", "mix", "medqa", {"task": "medqa"}, "0" * 64)
