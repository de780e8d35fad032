"""Virtual tokens of a build: trained on the pruned model, and put into its vocabulary."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeprune.data.encoding import Encoded
from edgeprune.data.template import ChatTemplate
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.pipeline.job import Job, dense_model, wanted
from edgeprune.pipeline.sparsify import Sparse
from edgeprune.pipeline.streams import training_rows
from edgeprune.planning.tensors import ModelPlan
from edgeprune.recipe.schema import training_seconds
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError
from edgeprune.support.files import atomic_path, sha256_json

if TYPE_CHECKING:
    from edgeprune.engine import PrunedCheckpoint
    from edgeprune.models.virtual_tokens import VirtualTokenizer
    from edgeprune.recovery.virtual import Tuning

_VERSION = 1
_SHARE = 0.25  # of the training budget, on top of it


def check(job: Job) -> None:
    """Reject a recipe with virtual tokens that its model has no place for.

    Raises:
        UsageError: there are several processes.
        InputError: the model has no chat template.
    """
    from edgeprune.models.virtual_tokens import virtual_tokenizer

    count = job.recipe.training.virtual_tokens
    if count and distributed.world()[1] > 1:
        raise UsageError(
            "Virtual tokens are not trained in several processes.", "Run it without a launcher."
        )
    if count:
        virtual_tokenizer(job.checkpoint, count)


def add_tokens(job: Job, plan: ModelPlan, sparse: Sparse) -> tuple[Job, ModelPlan, Sparse]:
    """Train the virtual tokens that the recipe asks for, and lay out the model that has them.

    Returns:
        The job, the plan and the weights of the model to export; as given, if none are asked for.
    """
    count = job.recipe.training.virtual_tokens
    if not count or sparse.checkpoint is None:
        return job, plan, sparse
    from edgeprune.models.loading import load_model
    from edgeprune.models.virtual_tokens import virtual_tokenizer, write_extended
    from edgeprune.recovery import virtual

    pruned, own = sparse.checkpoint, virtual_tokenizer(job.checkpoint, count)
    settings = _settings(job)
    folder = job.run.keyed(
        "virtual", sha256_json([_VERSION, sparse.key, count, vars(settings), own.ids.start])
    )
    found = virtual.finished(folder)
    if found is None:
        rows = _rows(job, own)
        model = load_model(job.checkpoint, "auto", pruned.weights())
        progress, device = job.run.progress, job.recipe.model.device
        found = virtual.tune(model, rows, own.ids, settings, folder, progress, device)
    vectors, facts = found
    place = folder / "model"
    if not place.is_dir():
        write_extended(job.checkpoint, pruned.weights(), own, vectors, place)
    known = job.checkpoint
    base = Checkpoint(known.name, known.source, place, known.sha256)
    calibration = [*pruned.calibration, *_scales(plan, pruned, base, folder)]
    made = replace(pruned, base=base, files=[], calibration=calibration)
    key = sha256_json([sparse.key, facts])
    training = (sparse.training or {}) | {"virtual": facts}
    following = replace(
        job, checkpoint=base, file=job.exporter.plan(dense_model(base), wanted(job.recipe))
    )
    return following, _longer(plan, following), Sparse(made, sparse.rows, key, training)


def _settings(job: Job) -> "Tuning":
    from edgeprune.recovery.virtual import Tuning

    asked, seconds = job.recipe.training, training_seconds(job.recipe)
    seconds = _SHARE * seconds if asked.ways else seconds
    return Tuning(seconds, asked.steps, seed=job.recipe.data.seed)


def _rows(job: Job, own: "VirtualTokenizer") -> list[Encoded]:
    """Encode the task's rows, each by itself, as the new template has them."""
    template, task = ChatTemplate.of(own.tokenizer), job.data.task
    assert template
    longest, found = job.recipe.data.length, []
    for row in training_rows(job):
        turn = task.renderer.turn(row)
        ids, answers = template.conversation(
            [*turn.messages, turn.reply], turn.tools, only_last=True
        )
        if len(ids) <= longest and any(answers):
            found.append((ids, answers))
    if not found:
        raise UsageError(
            f"No row of '{task.task.name}' fits into {longest} tokens.", "Raise --length."
        )
    return found


def _longer(plan: ModelPlan, job: Job) -> ModelPlan:
    """Lay the vocabulary's tensors out anew: they have more rows."""
    tensors: dict[str, Any] = dict(plan.tensors)
    for row in job.file.tensors:
        before = tensors.get(row.name)
        if before and before.shape != row.shape:
            storage = replace(row.storage, grid=before.storage.grid)
            tensors[row.name] = replace(before, shape=row.shape, storage=storage)
    return replace(plan, tensors=tensors)


def _scales(
    plan: ModelPlan, pruned: "PrunedCheckpoint", base: Checkpoint, folder: Any
) -> list[Any]:
    """Give the new rows of an embedding that is on a grid the scales that fit them best."""
    import torch

    from edgeprune.quantization.scales import one_by_one

    known, weights, made = Weights(pruned.calibration), base.weights(), {}
    for name, row in plan.tensors.items():
        key, grid = f"{name}.scales", row.storage.grid
        if row.block is None and key in known and grid:
            before, matrix = known.read(key), weights.read(name).float()
            new = matrix[len(before) :]
            scales = one_by_one(new, torch.ones(new.shape[1], 1), grid)[1]
            made[key] = torch.cat([before, scales.to(before.dtype)])
    if not made:
        return []
    path = folder / "scales.safetensors"
    with atomic_path(path) as temporary:
        save_tensors(temporary, made)
    return [path]
