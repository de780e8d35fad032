"""Planning and exporting in one step, for tests of what files hold."""

from pathlib import Path
from typing import Any

import exporters
from edgeprune.models import Checkpoint
from edgeprune.planning.grid import Grid
from edgeprune.planning.tensors import table
from exporters.base import Artifact, FilePlan, Model, StorageRequest


class Counter:
    """A progress stage that counts."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


def export_as(
    target: str,
    model: Model,
    wanted: StorageRequest,
    path: Path,
    metadata: Any = None,
    quantized_by: str = "test",
    stage: Any = None,
) -> Artifact:
    """Every tensor in the type that was asked for."""
    file = plan_as(target, model, wanted)
    return file.export(model, table(file.tensors), path, metadata, quantized_by, stage or Counter())


def export_gguf(model: Model, wanted: StorageRequest, path: Path, *more: Any) -> Artifact:
    return export_as("gguf", model, wanted, path, *more)


def export_onnx(model: Model, wanted: StorageRequest, path: Path, *more: Any) -> Artifact:
    return export_as("onnx", model, wanted, path, *more)


def dense_model(checkpoint: Checkpoint) -> Model:
    """The checkpoint as exporters see it."""
    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)


def plan_as(target: str, model: Model, wanted: StorageRequest) -> FilePlan:
    return exporters.get(target).plan(model, wanted)


def grids_of(target: str, model: Model, wanted: StorageRequest) -> dict[str, Grid]:
    """What calibrated rounding may choose codes on, by tensor."""
    return table(plan_as(target, model, wanted).tensors).grids
