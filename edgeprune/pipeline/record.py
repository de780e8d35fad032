"""Make the manifest of a build."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgeprune.data.loading import Data, Source
from edgeprune.manifest import SCHEMA, Manifest
from edgeprune.manifest.manifest import ChoiceFacts, PlannedTensor, SearchFacts, StorageFacts
from edgeprune.models.origin import Origin
from edgeprune.pipeline.conversations import described, template_problems
from edgeprune.pipeline.gates import failures
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.sparsify import Sparse
from edgeprune.planning.tensors import ModelPlan
from edgeprune.support import environment
from edgeprune.support.files import json_text


def describe(
    job: Job,
    source: Origin,
    plan: ModelPlan,
    sparse: Sparse,
    artifacts: dict[str, dict[str, Any]],
    packed: dict[str, Any] | None,
    results: dict[str, Any],
    found: SearchFacts | None,
    choice: ChoiceFacts | None = None,
) -> Manifest:
    """Make the manifest of a finished build, with the values as JSON restores them.

    Raises:
        CheckFailed: a number in it is NaN or infinite.
    """
    recipe, checkpoint = job.recipe, job.checkpoint
    machine = environment.describe()
    records = sparse.checkpoint.records if sparse.checkpoint else []
    values = {
        "schema": SCHEMA,
        "edgeprune": machine["versions"]["edgeprune"],
        "recipe": recipe.model_dump(),
        "machine": machine,
        "model": {
            "name": checkpoint.name,
            "source": checkpoint.source,
            "sha256": checkpoint.sha256,
            **asdict(source),
        },
        "data": describe_data(job.data, sparse.rows)
        | {"chat": described(job), "template_problems": template_problems(job)},
        "plan": [row.to_json() for row in plan_rows(plan)],
        "artifact": artifacts.get("pruned", artifacts["dense"]),
        "dense_artifact": {k: v for k, v in artifacts["dense"].items() if k != "tensors"},
        "pruned_tensors": [
            asdict(record) | {"sparsity": record.sparsity}
            for record in (records if recipe.pruning.sparsity else [])
        ],
        "rounded_with_data": sum(record.rounded_to_zero is not None for record in records),
        "search": found.model_dump() if found else None,
        "choice": choice.model_dump() if choice else None,
        "training": sparse.training,
        "packed": packed,
        "results": results,
        "gates": failures(recipe, results),
    }  # fmt: skip
    return Manifest.model_validate(json.loads(json_text(values)))


def plan_rows(plan: ModelPlan) -> list[PlannedTensor]:
    """The table of a plan."""
    return [
        PlannedTensor(
            name=row.name,
            stored_as=row.stored_as,
            shape=list(row.shape),
            role=row.role,
            pattern=row.pattern.name,
            zeros=row.zeros,
            storage=StorageFacts.model_validate(asdict(row.storage) | {"name": row.storage.name}),
            packed_bits=row.packed_bits,
        )
        for row in plan.tensors.values()
    ]


def describe_data(data: Data, used: Mapping[str, list[str]]) -> dict[str, Any]:
    """Describe both sources of a build and the rows that were used."""
    task = data.task.task
    return {
        "task": _source(data.task, used["task"], [row.id for row in data.evaluation])
        | {"description": task.description, "kind": task.kind, "warning": task.warning},
        "general": _source(
            data.general, used["general"], [row.id for row in data.general_evaluation]
        ),
    }


def _source(source: Source, calibrated: list[str], evaluated: list[str]) -> dict[str, Any]:
    task = source.task
    # where a data set stands on the hub, whichever copy of it was read
    hub = next((place.name for place in task.sources if place.kind == "hub"), "")
    return {
        "name": task.name,
        "version": task.version,
        "hub_id": hub,
        "license": task.license,
        "source": source.split.origin,
        "sha256": source.calibration_hash,
        "calibration_rows": calibrated,
        "evaluation_rows": evaluated,
    }
