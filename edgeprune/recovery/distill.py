"""Distillation under a fixed mask: kept weights learn to answer as the dense model does.

Sparse fine-tuning with the dense model as teacher (arXiv 2310.06927), on both calibration streams.
Where the file rounds weights to an integer grid, the last steps train what the file will hold.
"""

import math
import time
from collections.abc import Mapping
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
from edgeprune.quantization.grid import Grid
from edgeprune.recovery.batches import split
from edgeprune.recovery.loss import distillation
from edgeprune.recovery.masked import MaskedAdamW, open_student, schedule
from edgeprune.recovery.rounding import Rounding
from edgeprune.recovery.state import Progressed, RunFolder
from edgeprune.sparsity.weights import Weights, is_whole, save_tensors

_POINTS = 10  # of the loss curve; as often is everything kept
_PATIENCE = 3  # points without a better one, and training stops
_ROUNDED_FROM = 0.6  # of the steps, if the file has grids
_FILE, _SCALES = "recovered.safetensors", "scales.safetensors"
_BEST = "best.safetensors"


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
        rounded: matrices that were trained on their grid.
        curve: ``step``, ``train`` and ``held_out`` loss in nats per token, from before training on
            (where there is no ``train`` loss yet).
    """

    checkpoint: PrunedCheckpoint
    steps: int
    planned: int
    rounded: int
    curve: list[dict[str, Any]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> Distilled | None:
    """What a run in ``folder`` left, if it came to its end."""
    done = read_json(folder / "done.json")
    if done is None or not is_whole(folder / _FILE) or not is_whole(folder / _SCALES):
        return None
    made = replace(
        pruned,
        files=[*pruned.files, folder / _FILE],
        calibration=[*pruned.calibration, folder / _SCALES],
    )
    return Distilled(made, done["step"], done["steps"], done["rounded"], done["curve"])


def distill(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    how: Distillation,
    folder: Path,
    progress: Progress,
    device: str = "auto",
    grids: Mapping[str, Grid] | None = None,
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
        grids: what the file rounds tensors to, by their names in the checkpoint.

    Raises:
        CheckFailed: the loss is no number any more.
    """
    if result := finished(pruned, folder):
        clean_up(folder)
        return result
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(pruned, streams, how, folder, pick_device(device), grids or {})
    done = trainer.run(progress)
    weights, scales = trainer.result()
    for name, tensors in ((_FILE, weights), (_SCALES, scales)):
        with atomic_path(folder / name) as path:
            save_tensors(path, tensors)
    write_json(folder / "done.json", asdict(done) | {"rounded": len(scales)})
    clean_up(folder)
    found = finished(pruned, folder)
    assert found
    return found


def clean_up(folder: Path) -> None:
    """Drop what only an unfinished run needs."""
    RunFolder(folder).clean_up()
    (folder / _BEST).unlink(missing_ok=True)


class _Trainer:
    """One run: both models, the optimizer, and the state on disk."""

    def __init__(
        self,
        pruned: PrunedCheckpoint,
        streams: dict[str, Stream],
        how: Distillation,
        folder: Path,
        device: torch.device,
        grids: Mapping[str, Grid],
    ):
        self._stored = frozenset(pruned.base.weights().names())
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
        self._rounding = Rounding(self._student, self._stored, grids, Weights(pruned.calibration))
        self._state = RunFolder(folder)
        self._best = folder / _BEST

    def run(self, progress: Progress) -> Progressed:
        """Train to the end, or until the held-out loss has not fallen for three points."""
        start = time.perf_counter()
        kept = (self._parameters, self._optimizer.inner, self._rounding.scales)
        done = self._state.resume(*kept)
        if not done.steps:
            done.steps = self._how.steps or self._affordable(start)
            self._point(done, None)
        interval = max(1, done.steps // _POINTS)
        losses: list[float] = []
        with progress.stage("distill", done.steps) as stage:
            stage.advance(done.step)
            while done.step < done.steps and not self._risen(done):
                if done.step >= int(_ROUNDED_FROM * done.steps):
                    self._begin_rounding(done)
                losses.append(self._step(done))
                stage.advance()
                if done.step % interval == 0 or done.step == done.steps:
                    self._point(done, sum(losses) / len(losses))
                    self._state.save(done, *kept)
                    losses.clear()
        return done

    def result(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The best weights, named as in the checkpoint, and the scales of those on a grid."""
        best = Weights([self._best])
        tensors = {name: best.read(name) for name in self._parameters}
        scales = {f"{n}.scales": s.half().cpu() for n, s in self._rounding.scales.items()}
        return stored_tensors(self._student, tensors, self._stored), scales

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

    def _begin_rounding(self, done: Progressed) -> None:
        """From here on, weights on a grid are trained; those before were not what a file holds."""
        if self._rounding and not self._rounding.scales:
            self._rounding.fit()
            done.best = float("inf")
            self._point(done, None)

    def _gradients(self, step: int) -> float:
        total = 0.0
        with self._rounding.in_place():
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
        with self._rounding.in_place():
            held_out = sum(self._loss(ids, w).item() for ids, w in self._held_out.all())
            rounded = bool(self._rounding.scales)
            done.curve.append(
                {"step": done.step, "train": train, "held_out": held_out, "rounded": rounded}
            )
            if held_out < done.best:
                done.best = held_out
                with atomic_path(self._best) as path:
                    tensors = {n: p.detach().cpu() for n, p in self._parameters.items()}
                    save_tensors(path, tensors)

    def _risen(self, done: Progressed) -> bool:
        if self._rounding and not self._rounding.scales:
            return False  # what is best so far is not what a file would hold
        now = [point for point in done.curve if point["rounded"] == done.curve[-1]["rounded"]]
        last = now[-_PATIENCE:]
        return len(now) > _PATIENCE and all(point["held_out"] > done.best for point in last)
