"""A build from top to bottom: model and task in, verified artifact and report out."""

from dataclasses import dataclass
from pathlib import Path

import exporters
from edgeprune import report
from edgeprune.manifest import Manifest
from edgeprune.models.checkpoint import locate
from edgeprune.models.origin import Origin, origin
from edgeprune.pipeline import choose, max_loss, planner, retry, virtual
from edgeprune.pipeline.estimate import check_disk
from edgeprune.pipeline.export import export, pack
from edgeprune.pipeline.folders import claim, default_folder, record
from edgeprune.pipeline.job import Job, open_job, rows_for
from edgeprune.pipeline.measure import measure
from edgeprune.pipeline.parity import check_replies
from edgeprune.pipeline.record import describe
from edgeprune.pipeline.sparsify import sparsify
from edgeprune.pipeline.workspace import open_workspace
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe
from edgeprune.report.verdict import missed
from edgeprune.support.errors import GateFailed
from edgeprune.support.extras import need
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Progress

_REQUIRED = ("torch", "transformers", "accelerate", "scipy", "matplotlib")


@dataclass(frozen=True)
class Build:
    """A finished build.

    Attributes:
        folder: the build folder.
        artifact: the model file or folder.
        manifest: inputs, outputs and all results.
    """

    folder: Path
    artifact: Path
    manifest: Manifest


def build(
    recipe: Recipe,
    out: Path | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> Build | None:
    """Run a recipe. Results of stages whose inputs have not changed are reused.

    Args:
        recipe: what to build.
        out: the build folder; by default ``builds/`` and a name from the recipe.
        progress: receives progress of every stage; nothing is printed by default.
        replace: overwrite the build of another recipe in that folder. Recipes that differ only in
            measurement, device or gates count as the same.

    Returns:
        The build; None in all but the first process of a launched build.

    Raises:
        EdgepruneError: with an exit code and a hint; see `edgeprune.support.errors`. `GateFailed`
            is raised after everything has been written, so that the report shows what failed.
    """
    recipe = decided(recipe)
    exporter = exporters.get(recipe.artifact.target)
    need(*_REQUIRED, *exporter.requirements)
    data = rows_for(recipe)
    locate(recipe.model.name)  # a wrong name is said before a folder is made for it
    folder = Path(out or default_folder(recipe)).expanduser()
    outputs = (exporter.artifact, "manifest.json", *report.FILES)
    with open_workspace(folder, progress, lambda: claim(folder, recipe, replace), outputs) as run:
        check_disk(recipe, folder)
        job = open_job(recipe, run, data)
        virtual.check(job)
        source = origin(job.checkpoint)  # a broken model card is said now, not after the pruning
        run.begin(lambda: record(folder, recipe))
        following: Job | None = retry.resumed(job)
        manifest = None
        while following:
            job, following = following, None
            if manifest := _make(job, source):
                following = retry.again(job, manifest)
        return _finish(job, manifest) if manifest else None


def _make(job: Job, source: Origin) -> Manifest | None:
    """Go through all stages once; None in all but the first process of a launched build."""
    job, found = max_loss.settle(job)
    job, choice = choose.settle(job)
    plan = planner.plan(job)
    sparse = sparsify(job, plan)
    if not job.run.first:
        return None
    own, laid_out, sparse = virtual.add_tokens(job, plan, sparse)
    artifacts = check_replies(own, sparse, export(job, plan, sparse, (own, laid_out)))
    packed = pack(job, artifacts.get("pruned", artifacts["dense"]))
    results = measure(job, artifacts)
    return describe(job, source, laid_out, sparse, artifacts, packed, results, found, choice)


def _finish(job: Job, manifest: Manifest) -> Build:
    """Write report and manifest, unless they exist from an earlier run, and check the gates."""
    folder, progress = job.run.folder, job.run.progress
    written = folder / "manifest.json"
    said = [folder / name for name in report.FILES]
    if read_json(written) != manifest.to_json() or not all(map(Path.exists, said)):
        with progress.stage("report", 1) as stage:
            report.write(folder, manifest)
            stage.advance()
        write_json(written, manifest.to_json())  # last: it says that the rest is there
    if failed := [*manifest.gates, *missed(manifest)]:
        raise GateFailed("\n".join(failed), f"See {folder / 'report.html'}.", manifest)
    return Build(folder, folder / job.exporter.artifact, manifest)
