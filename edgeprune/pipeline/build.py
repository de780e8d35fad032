"""The pipeline: model and task in, verified sparse artifact and honest report out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.loading import Data, load_data
from edgeprune.data.task import Task
from edgeprune.models import Checkpoint, open_checkpoint
from edgeprune.models.checkpoint import locate
from edgeprune.models.origin import origin
from edgeprune.pipeline.estimate import check_disk
from edgeprune.pipeline.folders import claim, default_folder, record
from edgeprune.pipeline.gates import failures
from edgeprune.pipeline.max_loss import Search, search
from edgeprune.pipeline.sparsify import sparse_stage
from edgeprune.pipeline.stages import (
    artifact_name,
    check_stage,
    export_stage,
    measure_stage,
    pack_stage,
)
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe
from edgeprune.support import environment
from edgeprune.support.errors import GateFailed, MachineError, UsageError
from edgeprune.support.extras import need
from edgeprune.support.files import json_text, read_json, sweep, write_json
from edgeprune.support.progress import Progress, Quiet

if TYPE_CHECKING:
    from edgeprune.engine import PrunedCheckpoint

# What a target needs besides the libraries of every build.
_NEEDED = {"gguf": ("llama_cpp",), "onnx": ("onnx", "onnxruntime", "tokenizers")}


@dataclass(frozen=True)
class Build:
    """A finished build.

    Attributes:
        folder: holds everything.
        artifact: the model file.
        manifest: what went in, what came out, every result.
    """

    folder: Path
    artifact: Path
    manifest: dict[str, Any]


def build(
    recipe: Recipe,
    out: Path | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> Build:
    """Run a recipe. Stages whose inputs have not changed are reused.

    Args:
        recipe: what to build.
        out: the build folder; by default ``builds/`` and a name from the recipe.
        progress: told of every stage; nothing is printed by default.
        replace: overwrite the build of another recipe in that folder. Recipes that differ only in
            what is measured, where it runs or which gates it has to pass are no others.

    Raises:
        EdgepruneError: with an exit code and a hint; see `edgeprune.support.errors`. `GateFailed`
            comes after everything has been written, so that the report shows what did not hold.
    """
    from filelock import FileLock, Timeout

    need("torch", "transformers", "accelerate", "scipy", "matplotlib", *_NEEDED[recipe.target])
    progress = progress or Quiet()
    data = load_data(recipe.task, recipe.general, recipe.eval_rows, recipe.perplexity_tokens)
    locate(recipe.model)  # a wrong name is said before a folder is made for it
    folder = Path(out or default_folder(recipe)).expanduser()
    claim(folder, recipe, replace)
    try:
        with FileLock(folder / "work" / "lock", timeout=0):
            return _build(recipe, data, folder, progress)
    except Timeout:
        raise UsageError(f"Another build is at work in {folder}.", "Wait, or use --out.") from None


def take_part(recipe: Recipe, folder: Path) -> None:
    """What the processes beside the first do of a build: their share of pruning and training.

    Raises:
        EdgepruneError: as `build`; the first process says the same.
    """
    from edgeprune.support import distributed

    data = load_data(recipe.task, recipe.general, recipe.eval_rows, recipe.perplexity_tokens)
    try:
        distributed.wait()  # until the folder is the first one's
    except RuntimeError:  # torch's, of a process that is gone
        raise MachineError("The first process of this build has stopped; it says why.") from None
    sparse_stage(recipe, open_checkpoint(recipe.model), data, folder, Quiet())


def _build(recipe: Recipe, data: Data, folder: Path, progress: Progress) -> Build:
    from edgeprune import report
    from edgeprune.support import distributed

    outputs = ("model", "manifest.json", *report.FILES)
    for leftover in (*(f".{name}.*" for name in outputs), "work/**/.*.*"):
        sweep(folder, leftover)
    check_disk(recipe, folder)
    checkpoint = open_checkpoint(recipe.model, progress)
    check_stage(recipe, checkpoint)
    origin(checkpoint)  # a broken model card is said now, not after the pruning
    if recipe.max_loss and distributed.world()[1] > 1:
        raise UsageError("max_loss tries sparsities in one process alone.", "Launch it by itself.")
    record(folder, recipe)
    distributed.wait()  # `take_part` goes on from here
    _say_what_fusion_does(recipe, progress)
    found = None
    if recipe.max_loss:
        found, data = search(recipe, checkpoint, data, folder / "work" / "search", progress)
        recipe = recipe.model_copy(update={"sparsity": found.sparsity})
    sparse = sparse_stage(recipe, checkpoint, data, folder, progress)
    pruned = sparse.checkpoint
    artifacts = export_stage(recipe, checkpoint, pruned, sparse.key, folder, progress)
    packed = pack_stage(recipe, artifacts.get("pruned", artifacts["dense"]), folder, progress)
    results = measure_stage(recipe, data, artifacts, folder, progress)
    manifest = _manifest(recipe, checkpoint, data, sparse.rows, pruned, artifacts, results, found)
    manifest["packed"] = packed
    manifest["recovery"] = sparse.training
    manifest["rounded_with_data"] = sum(
        record.rounded_to_zero is not None for record in (pruned.records if pruned else [])
    )
    said = [folder / name for name in report.FILES]
    if read_json(folder / "manifest.json") != manifest or not all(map(Path.exists, said)):
        with progress.stage("report", 1) as stage:
            report.write(folder, manifest)
            stage.advance()
        write_json(folder / "manifest.json", manifest)  # last: it says that the rest is there
    if manifest["gates"]:
        raise GateFailed("\n".join(manifest["gates"]), f"See {folder / 'report.html'}.", manifest)
    return Build(folder, folder / artifact_name(recipe), manifest)


def _manifest(
    recipe: Recipe,
    checkpoint: Checkpoint,
    data: Data,
    rows_used: dict[str, list[str]],
    pruned: "PrunedCheckpoint | None",
    artifacts: dict[str, dict[str, Any]],
    results: dict[str, Any],
    found: Search | None,
) -> dict[str, Any]:
    """Everything about a build, as JSON gives it back: what is returned is what is in the file."""
    this_machine = environment.describe()
    manifest = {
        "edgeprune": this_machine["versions"]["edgeprune"],
        "recipe": recipe.model_dump(),
        "machine": this_machine,
        "model": {
            "name": checkpoint.name,
            "source": checkpoint.source,
            "sha256": checkpoint.sha256,
            **asdict(origin(checkpoint)),
        },
        "data": _describe_data(data, rows_used),
        "artifact": artifacts.get("pruned", artifacts["dense"]),
        "dense_artifact": {k: v for k, v in artifacts["dense"].items() if k != "tensors"},
        "pruned_tensors": [
            asdict(record) | {"sparsity": record.sparsity}
            for record in (pruned.records if pruned and recipe.sparsity else [])
        ],
        "search": asdict(found) if found else None,
        "results": results,
        "gates": failures(recipe, results),
    }
    return json.loads(json_text(manifest))


def _say_what_fusion_does(recipe: Recipe, progress: Progress) -> None:
    if METHODS[recipe.method].sees == "nothing" and recipe.sparsity:
        progress.note(
            f"{recipe.method} sees no data: fusion '{recipe.fusion}' and the calibration streams "
            "make no difference to what is pruned."
        )


def _describe_data(data: Data, used: dict[str, list[str]]) -> dict[str, Any]:
    task, general = data.task, data.general
    return {
        "task": {
            "name": task.task.name,
            "version": task.task.version,
            "description": task.task.description,
            "hub_id": _hub_id(task.task),
            "kind": task.task.kind,
            "license": task.task.license,
            "warning": task.task.warning,
            "source": task.split.origin,
            "sha256": task.calibration_hash,
            "calibration_rows": used["task"],
            "evaluation_rows": [row.id for row in data.evaluation],
        },
        "general": {
            "name": general.task.name,
            "version": general.task.version,
            "hub_id": _hub_id(general.task),
            "license": general.task.license,
            "source": general.split.origin,
            "sha256": general.calibration_hash,
            "calibration_rows": used["general"],
            "evaluation_rows": [row.id for row in data.general_evaluation],
        },
    }


def _hub_id(task: Task) -> str:
    """Where the data set of a task stands on the hub, whichever copy of it was read."""
    return next((source.name for source in task.sources if source.kind == "hub"), "")
