"""transformers: a folder that ``from_pretrained`` opens, with its zeros counted."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.planning.stored import Stored
from edgeprune.planning.types import WeightType, keeps_zeros

if TYPE_CHECKING:
    from edgeprune.planning.tensors import TensorPlan
    from exporters.base import FilePlan, Model, StorageRequest


class Transformers:
    """A folder of safetensors for transformers and all that reads it; see `exporters.base`."""

    name = "transformers"
    requirements: tuple[str, ...] = ("huggingface_hub", "tokenizers")
    types: Mapping[str, WeightType] = keeps_zeros("f32", "f16", "bf16")
    # Half the bytes of float32 with its range: float16 can't hold what bfloat16 models may hold.
    default_type = "bf16"
    choices: Mapping[str, tuple[Stored, ...]] = {}
    file_format = "safetensors"
    artifact = "model"
    runner = "transformers"
    zeros_cost = "safetensors stores zeros in full, like any other weight"
    opens_packed = ""
    how_to_use = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{file}")
model = AutoModelForCausalLM.from_pretrained("{file}", dtype="auto")"""
    next_verb = "inspect"

    def plan(self, model: "Model", wanted: "StorageRequest") -> "FilePlan":
        """See `exporters.base.Exporter.plan`."""
        from exporters.transformers.export import plan

        return plan(model, wanted)

    def estimate(
        self, shapes: Mapping[str, tuple[int, ...]], wanted: "StorageRequest"
    ) -> "list[TensorPlan]":
        """See `exporters.base.Exporter.estimate`."""
        from exporters.transformers.plan import estimate

        return estimate(shapes, wanted)

    def reopen(self, path: Path, model: "Model") -> Any:
        """See `exporters.base.Exporter.reopen`."""
        from exporters.transformers.reopen import reopen

        return reopen(path, model)


EXPORTER = Transformers()
