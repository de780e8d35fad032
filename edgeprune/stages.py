"""The stages of a build, each reused while its inputs are unchanged.

A stage's record holds the hash of everything it was made from. Code changes that would give other
weights or bytes raise the versions below.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune import machine
from edgeprune.calibration.data import Data
from edgeprune.calibration.render import Renderer
from edgeprune.files import read_json, sha256_file, sha256_json, write_json
from edgeprune.models import Checkpoint
from edgeprune.progress import Progress
from edgeprune.recipe import Recipe
from edgeprune.sparsity.metadata import SparsityMetadata

if TYPE_CHECKING:
    from edgeprune.calibration.streams import Stream
    from edgeprune.engine import PrunedCheckpoint
    from exporters.artifact import Model
    from runtime_tests.accuracy import Item

_PRUNE_VERSION = 2
_EXPORT_VERSION = 1
_MEASURE_VERSION = 1


def prune_stage(
    recipe: Recipe, checkpoint: Checkpoint, data: Data, folder: Path, progress: Progress
) -> tuple["PrunedCheckpoint | None", dict[str, list[str]]]:
    """The pruned checkpoint, and the ids of the rows each stream was made of."""
    if recipe.sparsity == 0:
        return None, {"general": [], "task": []}
    from edgeprune.engine import finished, prune

    key = _prune_key(recipe, checkpoint, data)
    work = folder / "work" / f"prune-{key[:16]}"
    used: dict[str, list[str]] = read_json(work / "rows.json") or {}
    pruned = finished(checkpoint, work) if used else None
    if pruned is None:
        streams = _streams(recipe, checkpoint, data, progress)
        used = {name: [row.id for row in stream.rows] for name, stream in streams.items()}
        write_json(work / "rows.json", used)
    data.refuse_overlap(used)
    if pruned is None:
        pruned = prune(checkpoint, streams, _pruning(recipe), work, progress, recipe.device)
    for stale in (folder / "work").glob("prune-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    return pruned, used


def _streams(
    recipe: Recipe, checkpoint: Checkpoint, data: Data, progress: Progress
) -> dict[str, "Stream"]:
    """Both token streams; says so if a source is too small to fill its own."""
    from edgeprune.models.hf import load_tokenizer

    with progress.stage("calibrate", 2) as stage:
        tokenizer = load_tokenizer(checkpoint)
        stage.advance()
        streams = data.streams(tokenizer, recipe.samples, recipe.length, recipe.seed)
        stage.advance()
    for name, stream in streams.items():
        if len(stream.tokens) < recipe.samples:
            progress.note(
                f"The {name} stream holds {len(stream.tokens)} of {recipe.samples} sequences: "
                "its rows are used up."
            )
    return streams


def _prune_key(recipe: Recipe, checkpoint: Checkpoint, data: Data) -> str:
    from edgeprune.engine.device import compute_dtype, pick_device

    device = pick_device(recipe.device)
    return sha256_json(
        {
            "version": _PRUNE_VERSION,
            "model": checkpoint.sha256,
            "general": data.general.calibration_hash(),
            "task": data.task.calibration_hash(),
            "streams": [recipe.samples, recipe.length, recipe.seed],
            "pruning": asdict(_pruning(recipe)),
            "arithmetic": [str(device), str(compute_dtype(device))],
        }
    )


def _pruning(recipe: Recipe) -> Any:
    from edgeprune.engine import Pruning
    from edgeprune.fusion import FusionRule
    from edgeprune.patterns import Pattern

    rule = FusionRule(
        recipe.fusion,
        recipe.fusion_tau,
        recipe.fusion_tau_mode,
        recipe.fusion_lambda,
        recipe.fusion_task_weight,
    )
    pattern = Pattern.parse(recipe.pattern)
    return Pruning(recipe.method, rule, pattern, recipe.sparsity, head=recipe.prune_head)


def check_stage(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse what can't be exported before any work is done.

    Raises:
        InputError: naming the architecture, the tokenizer or the feature.
    """
    import exporters

    exporters.get(recipe.target).check(_dense_model(checkpoint), recipe.type)


def _dense_model(checkpoint: Checkpoint) -> "Model":
    from exporters.artifact import Model

    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)


def export_stage(
    recipe: Recipe,
    checkpoint: Checkpoint,
    pruned: "PrunedCheckpoint | None",
    folder: Path,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """The artifact and its dense twin in the same type: facts about each file."""
    from exporters.artifact import Model

    dense = _dense_model(checkpoint)
    artifacts = {
        "dense": _export_one(recipe, "dense", dense, None, checkpoint.sha256, folder, progress)
    }
    if pruned:
        names = frozenset(record.name for record in pruned.records)
        sparse = Model(checkpoint.folder, pruned.weights(), names, checkpoint.gguf)
        metadata = SparsityMetadata(
            pattern=recipe.pattern,
            target=recipe.sparsity,
            method=recipe.method,
            fusion=recipe.fusion,
            task=recipe.task,
            recipe=recipe.model_dump(),
            base_sha256=checkpoint.sha256,
        )
        key = sha256_json([asdict(metadata), pruned.files[0].parent.name])
        artifacts["pruned"] = _export_one(recipe, "pruned", sparse, metadata, key, folder, progress)
    return artifacts


def _export_one(
    recipe: Recipe,
    name: str,
    model: Any,
    metadata: SparsityMetadata | None,
    key: str,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    import exporters

    target = exporters.get(recipe.target)
    quantized_by = f"edgeprune {machine.describe()['versions']['edgeprune']}"
    is_result = name == "pruned" or recipe.sparsity == 0
    path = folder / "model.gguf" if is_result else folder / "work" / f"dense-{recipe.type}.gguf"
    full_key = sha256_json([_EXPORT_VERSION, key, recipe.type, quantized_by, path.name])

    def export() -> dict[str, Any]:
        if is_result:  # what was said of the last artifact is not true of the next
            for name_of_old in ("manifest.json", "report.html"):
                (folder / name_of_old).unlink(missing_ok=True)
        with progress.stage(f"export {name}", target.steps(model)) as stage:
            artifact = target.export(model, recipe.type, path, metadata, quantized_by, stage)
        return {
            "file": str(path.relative_to(folder)),
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
            "tensors": [asdict(tensor) for tensor in artifact.tensors],
        }

    return _reuse(
        folder / "work" / f"export-{name}.json",
        full_key,
        export,
        still_good=lambda facts: path.is_file() and sha256_file(path) == facts["sha256"],
    )


def measure_stage(
    recipe: Recipe,
    data: Data,
    artifacts: dict[str, dict[str, Any]],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the artifact beside its dense twin."""
    import runtime_tests

    plan = runtime_tests.Plan(
        items=_items(data),
        metric=data.task.task.metric,
        max_answer_tokens=data.task.task.max_answer_tokens,
        general_text=data.general_text,
        perplexity_tokens=recipe.perplexity_tokens,
        prefill_tokens=recipe.prefill_tokens,
        decode_tokens=recipe.decode_tokens,
        rounds=recipe.rounds,
        threads=recipe.threads or machine.cores(),
    )
    hashes = {name: facts["sha256"] for name, facts in artifacts.items()}
    key = sha256_json([_MEASURE_VERSION, asdict(plan), hashes, machine.describe()])
    paths = {name: folder / facts["file"] for name, facts in artifacts.items()}
    return _reuse(
        folder / "work" / "runtime-test.json",
        key,
        lambda: runtime_tests.run(paths, plan, progress.stage),
    )


def _items(data: Data) -> list["Item"]:
    """Evaluation rows as plain text: all that `runtime_tests` knows of a task."""
    from runtime_tests.accuracy import Item

    renderer = Renderer(data.task.task)
    if data.task.task.kind == "text":
        return [Item(row.id, "", (renderer.prompt(row),), 0) for row in data.evaluation]
    items = []
    for row in data.evaluation:
        count = len(row.choices) or 1  # of a short answer's right answers, the first is scored
        continuations = tuple(renderer.answer(row, i) for i in range(count))
        items.append(
            Item(
                id=row.id,
                prompt=renderer.prompt(row),
                continuations=continuations,
                answer=max(row.answer, 0),
                lengths=tuple(map(len, row.choices)),
                accepted=row.answers,
            )
        )
    return items


def _reuse(
    record: Path,
    key: str,
    make: Callable[[], dict[str, Any]],
    still_good: Callable[[dict[str, Any]], bool] = lambda _value: True,
) -> dict[str, Any]:
    """What a stage gave last time if its inputs are the same, else what it gives now."""
    known = read_json(record)
    if known and known.get("key") == key and still_good(known["value"]):
        return known["value"]
    value = make()
    write_json(record, {"key": key, "value": value})
    return value
