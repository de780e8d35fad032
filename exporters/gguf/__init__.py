"""GGUF: plan the tensors, write them one by one, reopen the file and count its zeros."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.planning.stored import Stored
from edgeprune.planning.types import WeightType
from exporters.gguf.types import CHOICES, TYPES

if TYPE_CHECKING:
    from edgeprune.planning.tensors import TensorPlan
    from exporters.base import FilePlan, Model, StorageRequest


class Gguf:
    """llama.cpp's format; see `exporters.base.Exporter`."""

    name = "gguf"
    requirements: tuple[str, ...] = ("llama_cpp",)
    types: Mapping[str, WeightType] = TYPES
    default_type = "q8_0"
    choices: Mapping[str, tuple[Stored, ...]] = CHOICES
    file_format = "GGUF"
    artifact = "model.gguf"
    runner = "llamacpp"
    zeros_cost = "GGUF stores zeros in full, like any other weight"
    opens_packed = "edgeprune chat and edgeprune inspect open it directly"
    how_to_use = """\
llama-cli -m {file}                # stock llama.cpp
edgeprune chat {file}              # with edgeprune's sparse kernels"""
    next_verb = "chat"

    def plan(self, model: "Model", wanted: "StorageRequest") -> "FilePlan":
        """See `exporters.base.Exporter.plan`."""
        from exporters.gguf.export import plan

        return plan(model, wanted)

    def estimate(
        self, shapes: Mapping[str, tuple[int, ...]], wanted: "StorageRequest"
    ) -> "list[TensorPlan]":
        """See `exporters.base.Exporter.estimate`."""
        from exporters.gguf.estimate import estimate

        return estimate(shapes, wanted)

    def reopen(self, path: Path, model: "Model") -> Any:
        """See `exporters.base.Exporter.reopen`."""
        from exporters.gguf.reopen import reopen

        return reopen(path, model)


EXPORTER = Gguf()
