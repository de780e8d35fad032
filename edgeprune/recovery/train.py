"""Training under a fixed mask: kept weights learn from the dense model, and from the answers.

Sparse fine-tuning with the dense model as teacher (arXiv 2310.06927), on both calibration streams.
Where the file rounds weights to an integer grid, the last steps train what the file will hold.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.calibration.streams import Stream
from edgeprune.engine import PrunedCheckpoint
from edgeprune.engine.device import compute_dtype, pick_device
from edgeprune.engine.parallel import add_up, least, wait, world
from edgeprune.engine.weights import perplexity
from edgeprune.errors import CheckFailed, InputError
from edgeprune.files import atomic_path, number, read_json, write_json
from edgeprune.models.hf import load_model
from edgeprune.progress import Progress
from edgeprune.quantization.grid import Grid
from edgeprune.recovery.batches import Sample, split
from edgeprune.recovery.compiled import compile_blocks, run_plainly, timed
from edgeprune.recovery.loss import distillation, hidden_distance
from edgeprune.recovery.masked import MaskedAdamW, schedule
from edgeprune.recovery.rounding import Rounding
from edgeprune.recovery.selection import Selection
from edgeprune.recovery.settings import Training
from edgeprune.recovery.state import Progressed, RunFolder, drop_state
from edgeprune.recovery.student import Student, token_weights
from edgeprune.sparsity.weights import Weights, is_whole, save_tensors

_POINTS = 10  # of the loss curve, fewer in a short run; as often is everything kept
_APART = 8  # steps between points at least, where the number of steps is given
_JUDGING = 0.15  # share of a time budget that the curve may take, unless two points take more
_COMPILED_FROM = 240  # seconds: compiling takes up to a minute of them, and saves a quarter
_PATIENCE = 3  # points without a better one, and training stops
_ROUNDED_FROM = 0.6  # of the steps, if the file has grids
_FILE, _SCALES = "recovered.safetensors", "scales.safetensors"
_BEST = "best.safetensors"


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        checkpoint: with the trained weights.
        steps: that were done.
        planned: that were to be done; fewer are done when the held-out loss rises.
        rounded: matrices that were trained on their grid.
        task_share: of the task's sequences, lower than asked for if there are few.
        curve: ``step``, ``train`` and ``held_out`` loss in nats per token, from before training on
            (where there is no ``train`` loss yet), and whether weights were ``rounded``.
    """

    checkpoint: PrunedCheckpoint
    steps: int
    planned: int
    rounded: int
    task_share: float
    curve: list[dict[str, Any]]


def finished(pruned: PrunedCheckpoint, folder: Path) -> Trained | None:
    """What a run in ``folder`` left, if it came to its end."""
    done = read_json(folder / "done.json")
    if done is None or not is_whole(folder / _FILE) or not is_whole(folder / _SCALES):
        return None
    made = replace(
        pruned,
        files=[*pruned.files, folder / _FILE],
        calibration=[*pruned.calibration, folder / _SCALES],
    )
    return Trained(
        made, done["step"], done["steps"], done["rounded"], done["task_share"], done["curve"]
    )


def train(
    pruned: PrunedCheckpoint,
    streams: dict[str, Stream],
    how: Training,
    folder: Path,
    progress: Progress,
    device: str = "auto",
    grids: Mapping[str, Grid] | None = None,
) -> Trained:
    """Train the kept weights of every block.

    In a `torch.distributed` process group every process takes its share of each step's sequences
    and ends with the same weights; the folder must be one that all of them see.

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
        InputError: there is no token of an answer to learn or to judge by.
    """
    if result := finished(pruned, folder):
        clean_up(folder)
        return result
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(pruned, streams, how, folder, pick_device(device), grids or {})
    done = trainer.run(progress)
    if world()[0] == 0:
        weights, scales = trainer.result()
        for name, tensors in ((_FILE, weights), (_SCALES, scales)):
            with atomic_path(folder / name) as path:
                save_tensors(path, tensors)
        write_json(folder / "done.json", asdict(done) | {"rounded": len(scales)})
        clean_up(folder)
    wait()
    found = finished(pruned, folder)
    assert found
    return found


def clean_up(folder: Path) -> None:
    """Drop what only an unfinished run needs."""
    drop_state(folder)
    (folder / _BEST).unlink(missing_ok=True)


class _Trainer:
    """One run: both models, the optimizer, and the state on disk."""

    def __init__(
        self,
        pruned: PrunedCheckpoint,
        streams: dict[str, Stream],
        how: Training,
        folder: Path,
        device: torch.device,
        grids: Mapping[str, Grid],
    ):
        self._stored = frozenset(pruned.base.weights().names())
        self._how, self._folder, self._device = how, folder, device
        dtype = compute_dtype(device)
        self._teacher = load_model(pruned.base, dtype).to(device).requires_grad_(False)
        self._student = Student(pruned, device, dtype, how.rank, how.seed)
        if how.save_memory:
            self._student.save_memory()
        self._parameters = self._student.masters.parameters
        self._optimizer = MaskedAdamW(
            self._parameters, how.learning_rate, masked=how.rank is None, shared=True
        )
        self._selection = Selection(self._parameters) if how.selective else None
        self._begun = time.perf_counter()
        self._train, held_out = split(
            {name: stream.tokens for name, stream in streams.items()},
            token_weights(streams, how.answers, how.answer_weight),
            how.task_share,
            how.seed,
            self._known if how.answers and how.max_perplexity is not None else None,
        )
        self._rounding = Rounding(
            self._student.model, self._stored, grids, Weights(pruned.calibration)
        )
        self._state = RunFolder(
            folder,
            self._student.masters,
            self._optimizer.inner,
            self._selection.gradients if self._selection else {},
            self._rounding.scales,
        )
        self._best = folder / _BEST
        self._judged = held_out.all()

    def run(self, progress: Progress) -> Progressed:
        """Train to the end, or until the held-out loss has not fallen for three points."""
        done = self._state.resume()
        self._show()
        if not done.steps:
            self._refuse_silence()
            done = self._planned()
            done.task_share = self._train.task_share(done.steps * self._how.batch)
            self._point(done, None)
        elif done.compiled and world()[1] == 1:
            compile_blocks(self._student.model, self._teacher)
        losses: list[float] = []
        begin = time.perf_counter()
        name = "fine-tune" if self._how.answers else "distill"
        with progress.stage(name, done.steps) as stage:
            stage.advance(done.step)
            while done.step < done.steps and not self._risen(done):
                if done.step >= int(_ROUNDED_FROM * done.steps):
                    self._begin_rounding(done)
                losses.append(self._step(done))
                stage.advance()
                interval = -(-done.steps // done.points)
                if done.step % interval == 0 or done.step == done.steps:
                    if len(done.curve) == 1 and not self._how.steps:
                        self._plan_again(done, (time.perf_counter() - begin) / interval)
                        stage.expect(done.steps)
                    self._point(done, sum(losses) / len(losses))
                    self._state.save(done)
                    losses.clear()
        return done

    def result(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The best weights, named as in the checkpoint, and the scales of those on a grid."""
        scales = {f"{n}.scales": s.half().cpu() for n, s in self._rounding.scales.items()}
        return self._student.trained(Weights([self._best])), scales

    def _planned(self) -> Progressed:
        """A run of the steps that were asked for, or that fit into the time that is left."""
        if steps := self._how.steps:
            return Progressed(steps=steps, points=min(_POINTS, max(2, steps // _APART)))
        seconds, left = self._timed_step(), self._left()
        # Processes that wait for each other's gradients can't fail, or decide, each on its own.
        may_compile = world()[1] == 1 and not self._how.save_memory
        compiled = may_compile and left > _COMPILED_FROM and self._compile(seconds)
        if compiled:
            seconds, left = self._timed_step(), self._left()
        points = min(_POINTS, max(2, int(_JUDGING * left / seconds / self._judging)))
        steps = int(left / seconds - (points + 1) * self._judging)
        return Progressed(steps=least(max(1, steps)), points=least(points), compiled=compiled)

    def _plan_again(self, done: Progressed, seconds: float) -> None:
        """Steps by the time that those of the first interval took: one alone says little."""
        more = self._left() / seconds - done.points * self._judging
        done.steps = done.step + least(max(1, int(more)))

    @property
    def _judging(self) -> float:
        """What a point of the curve costs, in steps: there is no backward pass."""
        return len(self._judged) / self._how.batch / 2

    def _left(self) -> float:
        """Seconds of the budget."""
        return self._how.seconds - (time.perf_counter() - self._begun)

    def _timed_step(self) -> float:
        """Seconds of a step that moves nothing."""
        for step in range(2):  # the first allocates
            begin = time.perf_counter()
            self._gradients(step, self._how.task_share)
            self._optimizer.step(0.0)
            self._show()
        self._optimizer.inner.state.clear()
        return time.perf_counter() - begin

    def _compile(self, seconds: float) -> bool:
        """Whether compiled blocks run, and take less than these ``seconds`` a step."""
        models = self._student.model, self._teacher
        compile_blocks(*models)
        faster = timed(self._timed_step) < seconds
        if not faster:
            run_plainly(*models)
            self._student.masters.take_gradients()  # of a step that was broken off
            self._optimizer.inner.zero_grad()
            self._optimizer.inner.state.clear()
        return faster

    def _step(self, done: Progressed) -> float:
        loss = self._gradients(done.step, done.task_share)
        if self._selection:
            self._selection.gather()
        self._optimizer.step(schedule(done.step, done.steps))
        if self._selection:
            self._selection.pull_back()
        self._show()
        done.step += 1
        if not math.isfinite(loss):
            raise CheckFailed(
                f"The loss of recovery is {number(loss)} at step {done.step} of {done.steps}.",
                "Try a lower learning rate: --set recover_learning_rate=3e-5",
            )
        return loss

    def _begin_rounding(self, done: Progressed) -> None:
        """From here on, weights on a grid are trained; those before were not what a file holds."""
        if self._rounding and not self._rounding.scales:
            self._rounding.fit(self._student.masters)
            self._show()
            done.best = None
            self._point(done, None)

    def _show(self) -> None:
        """The student computes with the weights as they are now, rounded if that has begun."""
        self._student.masters.show(self._rounding.as_stored)

    def _gradients(self, step: int, task_share: float) -> float:
        """Of one step's loss, into the masters; the loss is that of all processes."""
        rank, size = world()
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        chosen = self._train.step(step, self._how.batch, task_share)
        for samples in self._passes(chosen[rank::size]):
            loss = self._loss(samples)
            loss.backward()
            total += loss.detach()
        self._student.masters.take_gradients()
        add_up([total])
        return float(total)

    def _passes(self, samples: list[Sample]) -> Iterator[list[Sample]]:
        """Sequences that go through together: a step's, each alone to save memory."""
        most = 1 if self._how.save_memory else -(-self._how.batch // world()[1])
        for start in range(0, len(samples), most):
            yield samples[start : start + most]

    def _loss(self, samples: list[Sample]) -> Tensor:
        """Of sequences in one pass; the dense model sees one at a time, and only where it must."""
        how = {"use_cache": False, "output_hidden_states": self._how.hidden_weight > 0}
        ids = torch.stack([sample.tokens for sample in samples]).to(self._device)
        student = self._student.model(input_ids=ids, **how)
        losses = []
        for place, (sample, logits) in enumerate(zip(samples, student.logits, strict=True)):
            weights = nn.functional.pad(sample.weights, (0, 1)).to(self._device)
            share, teacher = self._text_share(sample), None
            matches = self._how.hidden_weight > 0 and not self._teaches_answers(sample)
            if share < 1 or matches:
                with torch.no_grad():
                    teacher = self._teacher(input_ids=ids[place, None], **how)
            theirs = teacher.logits[0] if teacher else None
            following = ids[place].roll(-1)  # nothing follows the last, which weighs nothing
            losses.append(distillation(logits, theirs, following, share, weights))
            if teacher and matches:
                states = tuple(state[place, None] for state in student.hidden_states)
                distance = hidden_distance(states, teacher.hidden_states, weights.sum()[None])
                losses.append(self._how.hidden_weight * distance)
        return torch.stack(losses).sum()

    def _text_share(self, sample: Sample) -> float:
        """Of a sequence's own tokens in its loss; the rest is the dense model's."""
        if self._teaches_answers(sample):
            return 1.0
        return self._how.text_share if sample.stream == "general" else 0.0

    def _teaches_answers(self, sample: Sample) -> bool:
        return self._how.answers and sample.stream == "task"

    def _known(self, tokens: Tensor) -> Tensor:
        """Whether the dense model finds each token but the first easy enough to be learnt."""
        limit = self._how.max_perplexity or math.inf
        return perplexity(self._teacher, tokens[None])[0] <= limit

    def _refuse_silence(self) -> None:
        """Raise where nothing can be judged by: then hardly anything can be learnt either."""
        task = [sample.weights for sample in self._judged if sample.stream == "task"]
        if task and not torch.stack(task).any():
            limit = self._how.max_perplexity
            easy = f" has a perplexity of {limit} or less to the dense model" if limit else ""
            raise InputError(
                f"No token of an answer{easy} in the {len(task)} held-out sequences of the task.",
                "Raise recover_max_perplexity, or leave it out."
                if limit
                else "Give longer sequences (length), or more rows of the task.",
            )

    @torch.no_grad()
    def _point(self, done: Progressed, train: float | None) -> None:
        """Judge on the held-out sequences, and keep the weights if they are the best so far."""
        rank, size = world()
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for samples in self._passes(self._judged[rank::size]):
            total += self._loss(samples)
        add_up([total])  # so that all processes end together
        held_out, rounded = float(total), bool(self._rounding.scales)
        if not math.isfinite(held_out):
            raise CheckFailed(
                f"The held-out loss of recovery is {number(held_out)} at step {done.step} of "
                f"{done.steps}.",
                "Check the model, or try a lower learning rate: --set recover_learning_rate=3e-5",
            )
        done.curve.append(
            {"step": done.step, "train": train, "held_out": held_out, "rounded": rounded}
        )
        if done.best is None or held_out < done.best:
            done.best = held_out
            as_stored = self._rounding.as_stored
            best = self._student.masters.gathered(
                lambda name: as_stored(name, self._parameters[name].data)
            )
            if rank == 0:
                with atomic_path(self._best) as path:
                    save_tensors(path, best)

    def _risen(self, done: Progressed) -> bool:
        if self._rounding and not self._rounding.scales:
            return False  # what is best so far is not what a file would hold
        now = [point for point in done.curve if point["rounded"] == done.curve[-1]["rounded"]]
        last, best = now[-_PATIENCE:], done.best
        return (
            best is not None
            and len(now) > _PATIENCE
            and all(point["held_out"] > best for point in last)
        )
