"""The pipeline: model and task in, verified sparse artifact and honest report out."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune import machine
from edgeprune.calibration.data import Data, load_data
from edgeprune.calibration.render import Renderer
from edgeprune.errors import CheckFailed, UsageError
from edgeprune.extras import need
from edgeprune.files import read_json, sha256_file, sha256_json, write_json
from edgeprune.gates import failures
from edgeprune.methods import METHODS
from edgeprune.models import Checkpoint, open_checkpoint
from edgeprune.plan import check_disk
from edgeprune.progress import Progress, Quiet
from edgeprune.recipe import UNSTRUCTURED, Recipe
from edgeprune.sparsity.metadata import SparsityMetadata

if TYPE_CHECKING:
    from edgeprune.engine import PrunedCheckpoint

# Changes when the same recipe would give other weights or other bytes.
_PRUNE_VERSION = 1
_EXPORT_VERSION = 1


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


def build(recipe: Recipe, out: Path | None = None, progress: Progress | None = None) -> Build:
    """Run a recipe. Stages whose inputs have not changed are reused.

    Args:
        recipe: what to build.
        out: the build folder; by default ``builds/`` and a name from the recipe.
        progress: told of every stage; nothing is printed by default.

    Raises:
        EdgepruneError: with an exit code and a hint; see `edgeprune.errors`. `CheckFailed` comes
            after everything has been written, so that the report shows what did not hold.
    """
    from filelock import FileLock, Timeout

    need("torch", "transformers", "accelerate", "llama_cpp", "scipy", "matplotlib")
    progress = progress or Quiet()
    folder = Path(out or default_folder(recipe)).expanduser()
    _claim(folder)
    try:
        with FileLock(folder / "work" / "lock", timeout=0):
            return _build(recipe, folder, progress)
    except Timeout:
        raise UsageError(f"Another build is at work in {folder}.", "Wait, or use --out.") from None


def _build(recipe: Recipe, folder: Path, progress: Progress) -> Build:
    from edgeprune import report

    data = load_data(recipe.task, recipe.general, recipe.eval_rows, recipe.perplexity_tokens)
    checkpoint = open_checkpoint(recipe.model, progress)
    check_disk(recipe, folder)
    _say_what_fusion_does(recipe, progress)
    pruned, rows_used = _prune(recipe, checkpoint, data, folder, progress)
    artifacts = _export(recipe, checkpoint, pruned, folder, progress)
    results = _test(recipe, data, artifacts, folder, progress)
    manifest = {
        "edgeprune": machine.describe()["versions"]["edgeprune"],
        "recipe": recipe.model_dump(),
        "machine": machine.describe(),
        "model": {"name": checkpoint.name, "source": checkpoint.source, "sha256": checkpoint.sha256},
        "data": _describe_data(data, rows_used),
        "artifact": artifacts.get("pruned", artifacts["dense"]),
        "dense_artifact": {k: v for k, v in artifacts["dense"].items() if k != "tensors"},
        "pruned_tensors": [
            asdict(record) | {"sparsity": record.sparsity}
            for record in (pruned.records if pruned else [])
        ],
        "results": results,
        "gates": failures(recipe, results),
    }
    if read_json(folder / "manifest.json") != manifest or not (folder / "report.html").exists():
        write_json(folder / "manifest.json", manifest)
        with progress.stage("report", 1) as stage:
            report.write(folder / "report.html", manifest)
            stage.advance()
    if manifest["gates"]:
        raise CheckFailed("\n".join(manifest["gates"]), f"See {folder / 'report.html'}.")
    return Build(folder, folder / "model.gguf", manifest)


def default_folder(recipe: Recipe) -> Path:
    """``builds/`` and a name that says what is in it."""
    pattern = (
        f"{round(100 * recipe.sparsity)}pct"
        if recipe.pattern == UNSTRUCTURED
        else recipe.pattern.replace(":", "of")
    )
    task, model = (
        Path(name).name.removesuffix(".gz").rpartition(".")[0] or Path(name).name
        if "." in Path(name).name
        else Path(name).name
        for name in (recipe.task, recipe.model)
    )
    parts = (task, model, recipe.method, recipe.fusion, pattern, recipe.type)
    return Path("builds") / "-".join(parts)


def _claim(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"--out {folder} is a file, expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "work").is_dir():
        raise UsageError(
            f"{folder} is not empty and is not a build of edgeprune; nothing was touched.",
            "Choose another --out.",
        )
    (folder / "work").mkdir(parents=True, exist_ok=True)


def _say_what_fusion_does(recipe: Recipe, progress: Progress) -> None:
    if not METHODS[recipe.method].sees_data and recipe.sparsity:
        progress.note(
            f"{recipe.method} sees no data: fusion '{recipe.fusion}' and the calibration streams "
            "make no difference to what is pruned."
        )


def _prune(
    recipe: Recipe, checkpoint: Checkpoint, data: Data, folder: Path, progress: Progress
) -> tuple["PrunedCheckpoint | None", dict[str, list[str]]]:
    """The pruned checkpoint, and the ids of the rows each stream was made of."""
    if recipe.sparsity == 0:
        return None, {"general": [], "task": []}
    key = _prune_key(recipe, checkpoint, data)
    work = folder / "work" / f"prune-{key[:16]}"
    used = read_json(work / "rows.json")
    streams = {}
    if used is None or not (work / "done.json").exists():
        from edgeprune.models.hf import load_tokenizer

        with progress.stage("calibrate", 2) as stage:
            tokenizer = load_tokenizer(checkpoint)
            stage.advance()
            packed = data.streams(tokenizer, recipe.samples, recipe.length, recipe.seed)
            stage.advance()
        for name, stream in packed.items():
            if len(stream.tokens) < recipe.samples:
                progress.note(
                    f"The {name} stream holds {len(stream.tokens)} of {recipe.samples} sequences: "
                    "its rows are used up."
                )
        used = {name: [row.id for row in stream.rows] for name, stream in packed.items()}
        streams = {name: stream.tokens for name, stream in packed.items()}
        write_json(work / "rows.json", used)
    data.refuse_overlap(used)
    from edgeprune.engine import prune

    pruned = prune(checkpoint, streams, _pruning(recipe), work, progress, recipe.device)
    for stale in (folder / "work").glob("prune-*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    return pruned, used


def _prune_key(recipe: Recipe, checkpoint: Checkpoint, data: Data) -> str:
    names = (
        "method", "fusion", "sparsity", "pattern", "prune_head", "fusion_tau", "fusion_tau_mode",
        "fusion_lambda", "fusion_task_weight", "samples", "length", "seed", "device",
    )  # fmt: skip
    return sha256_json(
        {
            "version": _PRUNE_VERSION,
            "model": checkpoint.sha256,
            "general": data.general.calibration_hash(),
            "task": data.task.calibration_hash(),
            "recipe": {name: getattr(recipe, name) for name in names},
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
    return Pruning(recipe.method, rule, pattern, recipe.sparsity, recipe.prune_head)


def _export(
    recipe: Recipe,
    checkpoint: Checkpoint,
    pruned: "PrunedCheckpoint | None",
    folder: Path,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """The artifact and its dense twin in the same type: facts about each file."""
    from exporters.artifact import Model

    dense = Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)
    if pruned is None:
        return {"dense": _export_one(recipe, "dense", dense, None, "", folder, progress)}
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
    key = sha256_json([asdict(metadata), sorted(path.parent.name for path in pruned.files)])
    return {
        "dense": _export_one(recipe, "dense", dense, None, checkpoint.sha256, folder, progress),
        "pruned": _export_one(recipe, "pruned", sparse, metadata, key, folder, progress),
    }


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
    from exporters.gguf.export import steps

    quantized_by = f"edgeprune {machine.describe()['versions']['edgeprune']}"
    is_result = name == "pruned" or recipe.sparsity == 0
    path = folder / "model.gguf" if is_result else folder / "work" / f"dense-{recipe.type}.gguf"
    full_key = sha256_json([_EXPORT_VERSION, key, recipe.type, quantized_by])

    def export() -> dict[str, Any]:
        with progress.stage(f"export {name}", steps(model)) as stage:
            artifact = exporters.get(recipe.target)(
                model, recipe.type, path, metadata, quantized_by, stage
            )
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


def _test(
    recipe: Recipe,
    data: Data,
    artifacts: dict[str, dict[str, Any]],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the artifact beside its dense twin."""
    import runtime_tests
    from runtime_tests.accuracy import Item

    renderer = Renderer(data.task.task)
    items = []
    for row in data.evaluation:
        texts = row.choices or row.answers[:1] or (row.fields.get("text", ""),)
        items.append(
            Item(
                id=row.id,
                prompt="" if data.task.task.kind == "text" else renderer.prompt(row),
                continuations=texts
                if data.task.task.kind == "text"
                else tuple(renderer.answer(row, i) for i in range(len(texts))),
                answer=max(row.answer, 0),
                lengths=tuple(map(len, row.choices)),
                accepted=row.answers,
            )
        )
    plan = runtime_tests.Plan(
        items=items,
        metric=data.task.task.metric,
        max_answer_tokens=data.task.task.max_answer_tokens,
        general_text=data.general_text,
        perplexity_tokens=recipe.perplexity_tokens,
        prefill_tokens=recipe.prefill_tokens,
        decode_tokens=recipe.decode_tokens,
        rounds=recipe.rounds,
        threads=recipe.threads or machine.cores(),
    )
    key = sha256_json([asdict(plan), {n: a["sha256"] for n, a in artifacts.items()}])
    paths = {name: folder / facts["file"] for name, facts in artifacts.items()}
    return _reuse(
        folder / "work" / "runtime-test.json",
        key,
        lambda: runtime_tests.run(paths, plan, progress.stage),
    )


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


def _describe_data(data: Data, used: dict[str, list[str]]) -> dict[str, Any]:
    task, general = data.task, data.general
    return {
        "task": {
            "name": task.task.name,
            "version": task.task.version,
            "kind": task.task.kind,
            "license": task.task.license,
            "warning": task.task.warning,
            "source": task.split.origin,
            "sha256": task.calibration_hash(),
            "calibration_rows": used["task"],
            "evaluation_rows": [row.id for row in data.evaluation],
        },
        "general": {
            "name": general.task.name,
            "version": general.task.version,
            "license": general.task.license,
            "source": general.split.origin,
            "sha256": general.calibration_hash(),
            "calibration_rows": used["general"],
            "evaluation_rows": [row.id for row in data.general_evaluation],
        },
    }
