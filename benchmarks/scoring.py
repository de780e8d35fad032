"""What several benchmarks do with a model: write it in a type, and score the file."""

from pathlib import Path
from typing import Any

import runtime_tests
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.pipeline.export import quantized_by
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.measure import measure_plan
from edgeprune.planning.tensors import ModelPlan
from exporters.base import Artifact, Model


def scored(
    job: Job, plan: ModelPlan, model: Model, metadata: SparsityMetadata | None, path: Path
) -> tuple[Artifact, dict[str, Any]]:
    """Export a model to ``path`` and score it; the file stays."""
    progress = job.run.progress
    with progress.stage(f"export {job.recipe.artifact.type}", job.file.steps) as stage:
        artifact = job.file.export(model, plan, path, metadata, quantized_by(), stage)
    return artifact, runtime_tests.quality(path, measure_plan(job.recipe, job.data), progress.stage)
