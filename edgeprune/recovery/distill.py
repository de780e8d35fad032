"""Distillation under a fixed mask: kept weights learn to answer as the dense model does.

Sparse fine-tuning with the dense model as teacher (arXiv 2310.06927), on both calibration streams.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.calibration.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.engine.device import compute_dtype, pick_device
from edgeprune.errors import CheckFailed
from edgeprune.files import atomic_path, read_json, write_json
from edgeprune.models.hf import load_model, stored_tensors
from edgeprune.models.layers import decoder_blocks
from edgeprune.progress import Progress
from edgeprune.recovery.batches import split
from edgeprune.recovery.loss import distillation
from edgeprune.recovery.masked import MaskedAdamW, open_student, schedule
from edgeprune.recovery.state import Progressed, RunFolder
from edgeprune.sparsity.weights import Weights, save_tensors

_POINTS = 10  # of the loss curve; as often is everything kept
_PATIENCE = 3  # points without a better one, and training stops
_FILE = "recovered.safetensors"


@dataclass(frozen=True)
class Distillation:
    """How to train.

    Attributes:
        seconds: time to take; the first steps are timed and the rest planned by that.
        steps: how many instead; the same on every machine.
        batch: sequences a step.
        learning_rate: at its highest; it rises for 5 % of the steps and falls as a cosine.
        task_share: λ, of the task stream in the loss.
        answer_weight: of tokens of the task's answers; others weigh 1.
        seed: of the sequences' order.
    """

    seconds: float = 600.0
    steps: int | None = None
    batch: int = 4
    learning_rate: float = 1e-4
    task_share: float = 0.5
    answer_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """What training gave.

    Attributes:
        checkpoint: with the trained weights.
        steps: that were done.
        planned: that were to be done; fewer are done when the held-out loss rises.
        curve: ``step``, ``train`` and ``held_out`` loss in nats per token, from before training on
            (where there is no ``train`` loss yet).
    """

    checkpoint: PrunedCheckpoint
    steps: int
    planned: int
    curve: list[dict[str, Any]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> Distilled | None:
    """What a run in ``folder`` left, if it came to its end."""
    done = read_json(folder / "done.json")
    if done is None or not (folder / _FILE).is_file():
        return None
    files = [*pruned.files, folder / _FILE]
    return Distilled(replace(pruned, files=files), done["step"], done["steps"], done["curve"])


def distill(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    how: Distillation,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> Distilled:
    """Train the kept weights of every block towards the dense model's predictions.

    Args:
        pruned: the pruned model.
        streams: ``general`` and ``task`` tokens.
        how: the training's settings.
        folder: keeps the run; one that was killed goes on from the last point of its curve, to the
            same weights on a CPU. It must belong to this model, these streams and ``how`` alone.
        progress: told of every step.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        CheckFailed: the loss is no number any more.
    """
    if result := finished(pruned, folder):
        return result
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(pruned, streams, how, folder, pick_device(device))
    done = trainer.run(progress)
    with atomic_path(folder / _FILE) as path:
        save_tensors(path, trainer.stored(pruned))
    write_json(folder / "done.json", asdict(done))
    trainer.clean_up()
    found = finished(pruned, folder)
    assert found
    return found


class _Trainer:
    """One run: both models, the optimizer, and the state on disk."""

    def __init__(
        self,
        pruned: PrunedCheckpoint,
        streams: dict[str, Stream],
        how: Distillation,
        folder: Path,
        device: torch.device,
    ):
        self._how, self._folder, self._device = how, folder, device
        self._dtype = compute_dtype(device)
        self._teacher = load_model(pruned.base).to(device, self._dtype)
        self._student = open_student(pruned, folder).to(device)
        prefix, _ = decoder_blocks(self._student)
        self._parameters = {
            name: parameter.requires_grad_(True)
            for name, parameter in self._student.named_parameters()
            if name.startswith(f"{prefix}.")
        }
        self._optimizer = MaskedAdamW(self._parameters, how.learning_rate)
        self._train, self._held_out = split(streams, how.task_share, how.answer_weight, how.seed)
        self._state = RunFolder(folder)
        self._best = folder / "best.safetensors"

    def run(self, progress: Progress) -> Progressed:
        """Train to the end, or until the held-out loss has not fallen for three points."""
        start = time.perf_counter()
        done = self._state.resume(self._parameters, self._optimizer.inner)
        if not done.steps:
            done.steps = self._how.steps or self._affordable(start)
            self._point(done, None)
        interval = max(1, done.steps // _POINTS)
        losses: list[float] = []
        with progress.stage("distill", done.steps) as stage:
            stage.advance(done.step)
            while done.step < done.steps and not _risen(done):
                losses.append(self._step(done))
                stage.advance()
                if done.step % interval == 0 or done.step == done.steps:
                    self._point(done, sum(losses) / len(losses))
                    self._state.save(done, self._parameters, self._optimizer.inner)
                    losses.clear()
        return done

    def stored(self, pruned: PrunedCheckpoint) -> dict[str, Tensor]:
        """The best weights, named as in the checkpoint."""
        best = Weights([self._best])
        tensors = {name: best.read(name) for name in self._parameters}
        stored = frozenset(pruned.base.weights().names())
        return stored_tensors(self._student, tensors, stored)

    def clean_up(self) -> None:
        """Drop what only an unfinished run needs."""
        self._state.clean_up()
        self._best.unlink(missing_ok=True)

    def _affordable(self, start: float) -> int:
        """Steps that fit into what is left of the time; one is timed, and thrown away."""
        for _ in range(2):  # the first allocates
            begin = time.perf_counter()
            self._gradients(0)
            self._optimizer.inner.zero_grad()
        seconds = time.perf_counter() - begin
        points = (_POINTS + 1) * len(self._held_out.all()) / self._how.batch / 2  # no backward pass
        left = self._how.seconds - (time.perf_counter() - start)
        return max(1, int(left / seconds - points))

    def _step(self, done: Progressed) -> float:
        loss = self._gradients(done.step)
        self._optimizer.step(schedule(done.step, done.steps))
        done.step += 1
        if not math.isfinite(loss):
            raise CheckFailed(
                f"The loss of recovery is {loss} at step {done.step} of {done.steps}.",
                "Try a lower learning rate: --set recover_learning_rate=3e-5",
            )
        return loss

    def _gradients(self, step: int) -> float:
        total = 0.0
        for ids, weights in self._train.step(step, self._how.batch):
            loss = self._loss(ids, weights)
            loss.backward()
            total += loss.item()
        return total

    def _loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        ids, weights = ids[None].to(self._device), weights.to(self._device)
        with torch.autocast(self._device.type, self._dtype, self._dtype != torch.float32):
            with torch.no_grad():
                teacher = self._teacher(input_ids=ids, use_cache=False).logits[0, :-1]
            student = self._student(input_ids=ids, use_cache=False).logits[0, :-1]
        return distillation(student, teacher, weights)

    @torch.no_grad()
    def _point(self, done: Progressed, train: float | None) -> None:
        """Judge on the held-out sequences, and keep the weights if they are the best so far."""
        held_out = sum(self._loss(ids, w).item() for ids, w in self._held_out.all())
        done.curve.append({"step": done.step, "train": train, "held_out": held_out})
        if held_out < done.best:
            done.best = held_out
            with atomic_path(self._best) as path:
                tensors = {n: p.detach().cpu() for n, p in self._parameters.items()}
                save_tensors(path, tensors)


def _risen(done: Progressed) -> bool:
    last = done.curve[-_PATIENCE:]
    return len(done.curve) > _PATIENCE and all(point["held_out"] > done.best for point in last)
