"""Training under a fixed mask: kept weights learn from the dense model and from the answers.

Sparse fine-tuning with the dense model as teacher (arXiv 2310.06927), on both calibration streams.
If the file rounds weights to an integer grid, the last steps train with fake quantisation.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.data.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.engine.device import compute_dtype, pick_device
from edgeprune.formats.weights import Weights, is_whole, save_tensors
from edgeprune.models.loading import load_model
from edgeprune.planning.grid import Grid
from edgeprune.planning.tensors import block_of
from edgeprune.recovery import loop
from edgeprune.recovery.batches import Batches, split
from edgeprune.recovery.budget import Budget
from edgeprune.recovery.curve import SCALES, Curve
from edgeprune.recovery.losses import Objective
from edgeprune.recovery.qat import FakeQuantizer
from edgeprune.recovery.settings import Training
from edgeprune.recovery.state import RunFolder, TrainState, drop_state
from edgeprune.recovery.step import TrainStep
from edgeprune.recovery.student import Student
from edgeprune.recovery.tokens import low_perplexity, require_answers, token_weights
from edgeprune.support.distributed import wait, world
from edgeprune.support.files import atomic_path, read_json, write_json
from edgeprune.support.progress import Progress

_FILE, _SCALES = "recovered.safetensors", "scales.safetensors"
_BEST = "best.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        checkpoint: checkpoint with the trained weights.
        steps: number of steps done.
        planned: number of steps planned; training stops early if the held-out loss rises.
        rounded: number of matrices trained on their grid.
        task_share: the task's share of the sequences, lower than set if there are few.
        curve: ``step``, ``train`` and ``held_out`` loss in nats per token, from before training on
            (where there is no ``train`` loss yet), and whether weights were ``rounded``.
    """

    checkpoint: PrunedCheckpoint
    steps: int
    planned: int
    rounded: int
    task_share: float
    curve: list[dict[str, Any]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> TrainResult | None:
    """Read the result in ``folder``, if the run finished."""
    done = read_json(folder / "done.json")
    if done is None or not is_whole(folder / _FILE) or not is_whole(folder / _SCALES):
        return None
    made = replace(
        pruned,
        files=[*pruned.files, folder / _FILE],
        calibration=[*pruned.calibration, folder / _SCALES],
    )
    return TrainResult(
        made, done["step"], done["steps"], done["rounded"], done["task_share"], done["curve"]
    )


def train(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    settings: Training,
    folder: Path,
    progress: Progress,
    device: str = "auto",
    grids: Mapping[str, Grid] | None = None,
) -> TrainResult:
    """Train the kept weights of every block.

    In a `torch.distributed` process group every process takes its share of each step's sequences
    and ends with the same weights; the folder must be one that all of them see.

    Args:
        pruned: the pruned model.
        streams: ``general`` and ``task`` tokens, and ``chat`` if there are conversations.
        settings: settings of the training.
        folder: keeps the run; a killed run resumes from the last point of its curve, to the
            same weights on a CPU. It must belong to this model, these streams and ``settings``
            alone.
        progress: receives progress by steps.
        device: ``auto``, ``cpu`` or ``cuda``.
        grids: the file's grids by tensor names in the checkpoint.

    Raises:
        CheckFailed: the loss is NaN or infinite.
        InputError: there is no answer token to train or to evaluate on.
    """
    if result := finished(pruned, folder):
        _clean_up(folder)
        return result
    folder.mkdir(parents=True, exist_ok=True)
    _run(pruned, streams, settings, folder, progress, pick_device(device), grids or {})
    wait()
    found = finished(pruned, folder)
    assert found
    return found


def _run(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    settings: Training,
    folder: Path,
    progress: Progress,
    device: torch.device,
    grids: Mapping[str, Grid],
) -> None:
    """Set up a run, train, and write the result."""
    dtype, stored = compute_dtype(device), frozenset(pruned.base.weights().names())
    teacher = load_model(pruned.base, dtype).to(device).requires_grad_(False)
    beside = [name for name in grids if block_of(name) is None]
    student = Student(pruned, device, dtype, settings.rank, settings.seed, beside)
    if settings.save_memory:
        student.save_memory()
    begun = time.perf_counter()
    batches, judging = _split(streams, settings, teacher)
    require_answers(judging.all(), settings.max_perplexity)
    calibration = Weights(pruned.calibration)
    quantizer = FakeQuantizer(
        student.model, stored, grids, calibration, settings.learn_scales, settings.grid_from == 0
    )
    objective = Objective(student.model, teacher, settings, device)
    step = TrainStep(student, teacher, objective, batches, quantizer, settings)
    kept = RunFolder(
        folder,
        step.masters,
        step.optimizer.inner,
        step.selection.gradients if step.selection else {},
        quantizer.state,
    )
    curve = Curve(judging, objective, step.masters, quantizer, folder / _BEST)
    budget = Budget(settings, [len(tokens) for tokens in judging.tokens.values()], begun)
    name = "fine-tune" if settings.answers else "distill"
    state = loop.run(step, curve, budget, kept, progress, name)
    if world()[0] == 0:
        best = Weights([folder / _BEST])
        scales = {name: best.read(f"{SCALES}{name}") for name in quantizer.scales}
        _write(folder, student.trained(best), scales, state)


def _split(streams: dict[str, Stream], settings: Training, teacher: Any) -> tuple[Batches, Batches]:
    """Prepare the training and the held-out sequences."""
    limit = settings.max_perplexity if settings.answers else None
    return split(
        {name: stream.tokens for name, stream in streams.items()},
        token_weights(streams, settings.answers, settings.answer_weight),
        _shares(settings, "chat" in streams),
        settings.seed,
        None if limit is None else low_perplexity(teacher, limit),
    )


def _shares(settings: Training, chats: bool) -> dict[str, float]:
    """Share sequences among the streams."""
    task, chat = settings.task_share, settings.chat_share if chats else 0.0
    return {"general": (1 - task) * (1 - chat), "chat": (1 - task) * chat, "task": task}


def _write(
    folder: Path, weights: dict[str, Tensor], scales: dict[str, Tensor], state: TrainState
) -> None:
    """Write the weights, named as in the checkpoint, and the scales of those on a grid.

    The file written last marks the result as complete.
    """
    halves = {f"{name}.scales": scale.half() for name, scale in scales.items()}
    for name, tensors in ((_FILE, weights), (_SCALES, halves)):
        with atomic_path(folder / name) as path:
            save_tensors(path, tensors)
    write_json(folder / "done.json", asdict(state) | {"rounded": len(scales)})
    _clean_up(folder)


def _clean_up(folder: Path) -> None:
    """Remove files that only an unfinished run needs."""
    drop_state(folder)
    (folder / _BEST).unlink(missing_ok=True)
