"""ONNX: build the graph, write weights beside it, reopen both and count zeros."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.planning.stored import Stored
from edgeprune.planning.types import WeightType
from exporters.onnx.types import CHOICES, TYPES

if TYPE_CHECKING:
    from edgeprune.planning.tensors import TensorPlan
    from exporters.base import FilePlan, Model, StorageRequest


class Onnx:
    """The ONNX exporter; see `exporters.base.Exporter`."""

    name = "onnx"
    requirements: tuple[str, ...] = ("onnx", "onnxruntime", "tokenizers")
    types: Mapping[str, WeightType] = TYPES
    default_type = "int8"
    choices: Mapping[str, tuple[Stored, ...]] = CHOICES
    file_format = "ONNX"
    artifact = "model.onnx"
    runner = "onnxruntime"
    zeros_cost = "ONNX stores zeros in full, like any other weight"
    opens_packed = "onnxruntime opens it directly"
    how_to_use = """\
from pathlib import Path

import onnxruntime
session = onnxruntime.InferenceSession("{file}")

from edgeprune.runtime.onnxruntime.loading import open_session  # with its sparse kernels
session = open_session(Path("{file}"), onnxruntime.SessionOptions()).session"""
    next_verb = "inspect"

    def plan(self, model: "Model", wanted: "StorageRequest") -> "FilePlan":
        """See `exporters.base.Exporter.plan`."""
        from exporters.onnx.export import plan

        return plan(model, wanted)

    def estimate(
        self, shapes: Mapping[str, tuple[int, ...]], wanted: "StorageRequest"
    ) -> "list[TensorPlan]":
        """See `exporters.base.Exporter.estimate`."""
        from exporters.onnx.plan import estimate

        return estimate(shapes, wanted)

    def reopen(self, path: Path, model: "Model") -> Any:
        """See `exporters.base.Exporter.reopen`."""
        from exporters.onnx.reopen import reopen

        return reopen(path, model)


EXPORTER = Onnx()
