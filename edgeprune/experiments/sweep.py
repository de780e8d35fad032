"""Sweeps: many builds that share common work.

Builds whose pruned weights are made from the same inputs (another type, target or packing of the
same pruning) prune once: the later ones begin with hard links to the finished blocks. Such builds
form a group; groups are what machines of a Ray cluster are given. Builds of another method or
sparsity share no statistics: those of a block depend on what was pruned before it.
"""

import os
import shutil
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.pipeline.build import build
from edgeprune.pipeline.folders import claim
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.keys import prune_key
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.goal import decided
from edgeprune.recipe.schema import Recipe
from edgeprune.support import environment
from edgeprune.support.errors import EdgepruneError, GateFailed, MachineError, known
from edgeprune.support.extras import load
from edgeprune.support.files import atomic_folder, sha256_json
from edgeprune.support.progress import Progress, Quiet


@dataclass(frozen=True)
class Outcome:
    """What became of one build.

    Attributes:
        name: name of the recipe.
        folder: folder of the build.
        state: ``done``, ``failed`` (a gate failed; the build is complete) or ``error``.
        message: what went wrong; empty if nothing did.
        exit_code: exit code that `edgeprune build` would have given.
    """

    name: str
    folder: Path
    state: str
    message: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Group:
    """Builds that share their pruning.

    Attributes:
        key: hash of the pruned weights' inputs.
        recipes: by name.
    """

    key: str
    recipes: dict[str, Recipe]


def groups(recipes: dict[str, Recipe], progress: Progress) -> list[Group]:
    """Group builds that share their pruning; mistakes in recipes are reported here.

    Args:
        recipes: by name.
        progress: receives conversion progress.

    Raises:
        EdgepruneError: naming the recipe; nothing has been built yet.
    """
    found: dict[str, dict[str, Recipe]] = {}
    for name, recipe in recipes.items():
        try:
            key = prune_key(open_job(recipe, Workspace(folder=Path(), progress=progress)))
        except EdgepruneError as error:
            error.args = (f"{name}: {error}",)
            raise
        if recipe.pruning.max_loss or decided(recipe).goal.choose:  # what it is, is not known yet
            key = sha256_json([key, recipe.model_dump()])
        found.setdefault(key, {})[name] = recipe
    return [Group(key, alike) for key, alike in found.items()]


def sweep(
    planned: list[Group],
    folder: Path,
    progress: Progress,
    cluster: str | None = None,
    replace: bool = False,
) -> list[Outcome]:
    """Run all builds; a build that fails does not stop the others.

    Args:
        planned: groups from `groups`.
        folder: folder for one folder per build. Finished work there is reused.
        progress: receives progress of every stage, or with a cluster of every group.
        cluster: address of a Ray cluster whose machines see ``folder`` and the working folder under
            the same paths; ``local`` is this machine. None: one after the other, in this process.
        replace: overwrite builds of other recipes in these folders.

    Returns:
        The outcome of each build, in the order of the groups.

    Raises:
        MachineError: a cluster is requested but Ray is not installed.
    """
    folder = folder.resolve()
    if cluster:
        return _on_ray(planned, folder, progress, cluster, replace)
    outcomes = []
    for group in planned:
        outcomes += build_group(group, folder, progress, replace)
    return outcomes


def build_group(
    group: Group, folder: Path, progress: Progress, replace: bool = False
) -> list[Outcome]:
    """Run builds that share a pruning, one after another."""
    outcomes: list[Outcome] = []
    for name, recipe in group.recipes.items():
        target = folder / name
        progress.note(f"{name}: {target}")
        try:
            claim(target, recipe, replace)
            for done in outcomes:
                _share(*(_pruning(place, group.key) for place in (done.folder, target)))
            build(recipe, target, progress, replace)
            outcomes.append(Outcome(name, target, "done"))
        except Exception as error:
            told = known(error)
            if told is None:
                raise  # a bug
            state = "failed" if isinstance(told, GateFailed) else "error"
            outcomes.append(Outcome(name, target, state, str(told), told.exit_code))
            progress.note(f"{name}: {told}")
    return outcomes


def _pruning(folder: Path, key: str) -> Path:
    """Return the folder of a build's pruning."""
    return folder / "work" / f"prune-{key[:16]}"


def _share(source: Path, target: Path) -> None:
    """Hard-link a finished pruning, whose files are replaced but never modified."""
    if not (source / "done.json").is_file() or target.exists():
        return
    with atomic_folder(target) as temporary:
        shutil.copytree(source, temporary, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _on_ray(
    planned: list[Group], folder: Path, progress: Progress, address: str, replace: bool
) -> list[Outcome]:
    """Run one build per machine at a time: a build uses all cores, and measures speed."""
    ray = load("ray")
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        idle = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        left, at_work = deque(enumerate(planned)), dict[Any, tuple[int, str]]()
        found: dict[int, list[Outcome]] = {}
        with progress.stage("groups of builds", len(planned)) as stage:
            while left or at_work:
                while left and idle:
                    index, group = left.popleft()
                    node = idle.pop()
                    task = ray.remote(num_cpus=0, scheduling_strategy=_only_on(node))(_remotely)
                    at_work[task.remote(group, folder, Path.cwd(), replace)] = index, node
                (finished,), _ = ray.wait(list(at_work), num_returns=1)
                index, node = at_work.pop(finished)
                try:
                    found[index] = ray.get(finished)
                except ray.exceptions.RayError as error:
                    found[index] = _lost(planned[index], folder, error)
                idle.append(node)
                stage.advance()
        return [outcome for index in sorted(found) for outcome in found[index]]
    finally:
        ray.shutdown()


def _only_on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _remotely(group: Group, folder: Path, place: Path, replace: bool) -> list[Outcome]:
    """Run builds on a machine of the cluster, in the sweep's working folder."""
    import torch

    # Ray lets a task that claims no processor have one thread, and sums would come out otherwise.
    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(environment.cores())
    os.chdir(place)
    return build_group(group, folder, Quiet(), replace)


def _lost(group: Group, folder: Path, error: Exception) -> list[Outcome]:
    message = (
        "The connection to the machine or its worker was lost: "
        f"{str(error).strip().splitlines()[-1]}"
    )
    code = MachineError.exit_code
    return [Outcome(name, folder / name, "error", message, code) for name in group.recipes]


def as_json(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Convert outcomes for JSON output."""
    return [asdict(outcome) | {"folder": str(outcome.folder)} for outcome in outcomes]
