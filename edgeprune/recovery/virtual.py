"""Prompt tuning: virtual tokens are trained for the task, and nothing else of the model is.

Prompt tuning (Lester et al., arXiv 2104.08691) on a compressed model, as in compress-then-prompt
(2305.11186). Rows are read one by one, as in use, not packed into sequences.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edgeprune.data.encoding import Encoded
from edgeprune.engine.device import compute_dtype, pick_device
from edgeprune.formats.weights import Weights, is_whole, save_tensors
from edgeprune.recovery.losses import distillation
from edgeprune.support.files import atomic_path, read_json, write_json
from edgeprune.support.progress import Progress

_FILE, _STATE = "virtual.safetensors", "state.safetensors"
_HELD_OUT_EVERY, _HELD_OUT_MOST = 10, 32
_POINTS = 8  # of the curve
_WARM_UP = 0.05  # share of the steps in which the rate rises; then it falls as a cosine
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Tuning:
    """Settings of prompt tuning.

    Attributes:
        seconds: time budget; the first steps are timed to plan the rest.
        steps: number of steps instead of a time.
        batch: rows of a step.
        learning_rate: Adam's highest, as a share of the embedding's root mean square.
        seed: of the rows' order and of the initial values.
    """

    seconds: float = 120.0
    steps: int | None = None
    batch: int = 8
    learning_rate: float = 0.1
    seed: int = 0


def finished(folder: Path) -> tuple[Tensor, dict[str, Any]] | None:
    """Read the trained rows, (tokens, width), and facts for the manifest, if a run finished."""
    done = read_json(folder / "done.json")
    if done is None or not is_whole(folder / _FILE):
        return None
    return Weights([folder / _FILE]).read("rows"), done


def tune(
    model: Any,
    rows: Sequence[Encoded],
    ids: range,
    settings: Tuning,
    folder: Path,
    progress: Progress,
    device: str = "auto",
) -> tuple[Tensor, dict[str, Any]]:
    """Train virtual tokens on a task's answers.

    Args:
        model: the transformers model, which stays as it is.
        rows: tokens of rows, virtual ones among them, and which are of an answer.
        ids: of the virtual tokens.
        settings: settings of the training.
        folder: keeps the run; a killed run resumes to the same rows on a CPU.
        progress: receives progress by steps.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        As `finished`.
    """
    if found := finished(folder):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    place = pick_device(device)
    model.to(place, compute_dtype(place)).requires_grad_(False)
    held = list(range(0, len(rows), _HELD_OUT_EVERY))[:_HELD_OUT_MOST]
    judged = [rows[n] for n in held]
    learnt = [row for n, row in enumerate(rows) if n not in held] or judged
    run = _Run(model, learnt, judged, ids, settings, folder)
    begun, seconds = time.perf_counter(), settings.seconds
    steps = run.planned or settings.steps or 0
    with progress.stage("tune virtual tokens", steps or 2) as stage:
        if not run.planned:
            run.judge(None)
        losses: list[float] = []
        stage.advance(run.step)
        while not steps or run.step < steps:
            losses.append(run.take(steps))
            stage.advance()
            if not steps and run.step == 2:  # the second is timed: the first warms up
                spent = time.perf_counter() - begun
                steps = max(2, int(2 + (seconds - spent) / run.last * (1 - 1 / _POINTS)))
                stage.expect(steps)
            if steps and (run.step == steps or run.step % -(-steps // _POINTS) == 0):
                run.judge(sum(losses) / len(losses))
                run.save(steps)
                losses.clear()
    facts = {"steps": run.step, "planned_steps": steps, "rounded": 0, "task_share": 1.0,
             "curve": run.curve}  # fmt: skip
    with atomic_path(folder / _FILE) as path:
        save_tensors(path, {"rows": run.best})
    write_json(folder / "done.json", facts)
    for name in (_STATE, "state.json"):
        (folder / name).unlink(missing_ok=True)
    return run.best, facts


class _Run:
    """One training, begun or resumed."""

    def __init__(
        self,
        model: Any,
        learnt: list[Encoded],
        judged: list[Encoded],
        ids: range,
        settings: Tuning,
        folder: Path,
    ):
        self._model, self._learnt, self._judged = model, learnt, judged
        self._ids, self._settings, self._folder = ids, settings, folder
        self.step, self.planned, self.last = 0, 0, 0.0
        self.curve: list[dict[str, Any]] = []
        embedding = model.get_input_embeddings().weight
        known = torch.tensor([t for row, _ in learnt for t in row if t < ids.start])
        own = torch.Generator().manual_seed(settings.seed)
        chosen = known[torch.randint(len(known), (len(ids),), generator=own)]
        # Words of the task are a better beginning than chance (Lester et al., section 3.2).
        self.rows = embedding[chosen.to(embedding.device)].float().clone().requires_grad_()
        self.best = self.rows.detach().clone()
        self._rate = settings.learning_rate * float(embedding.float().square().mean().sqrt())
        self._optimizer = torch.optim.Adam([self.rows], lr=self._rate)
        self._resume()

    def take(self, steps: int) -> float:
        """Take one step, and return its loss."""
        begin = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * _schedule(self.step, steps)
        loss = self._loss(self._batch())
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.last = time.perf_counter() - begin
        return float(loss.detach())

    @torch.no_grad()
    def judge(self, train: float | None) -> None:
        """Add a point to the curve; the rows with the lowest held-out loss are kept."""
        size = self._settings.batch
        parts = [self._judged[at : at + size] for at in range(0, len(self._judged), size)]
        answers = [sum(sum(own) for _, own in part) for part in parts]
        losses = [float(self._loss(part)) for part in parts]
        total = sum(n * loss for n, loss in zip(answers, losses, strict=True)) / sum(answers)
        if not self.curve or total < min(point["held_out"] for point in self.curve):
            self.best = self.rows.detach().clone()
        point = {"step": self.step, "train": train, "held_out": total, "rounded": False}
        self.curve.append(point)

    def save(self, steps: int) -> None:
        """Keep all that resuming needs."""
        moments = self._optimizer.state[self.rows]
        kept = {name: moments[name] for name in _MOMENTS}
        with atomic_path(self._folder / _STATE) as path:
            save_tensors(path, kept | {"rows": self.rows.detach(), "best": self.best})
        state = {"step": self.step, "steps": steps, "curve": self.curve}
        write_json(self._folder / "state.json", state)

    def _resume(self) -> None:
        state = read_json(self._folder / "state.json")
        if state is None or not is_whole(self._folder / _STATE):
            return
        kept = Weights([self._folder / _STATE])
        self.step, self.planned, self.curve = state["step"], state["steps"], state["curve"]
        self.rows.data.copy_(kept.read("rows"))
        self.best = kept.read("best").to(self.rows.device)
        moments = {name: kept.read(name).to(self.rows.device) for name in _MOMENTS}
        self._optimizer.state[self.rows] = {"step": torch.tensor(float(self.step)), **moments}

    def _batch(self) -> list[Encoded]:
        """Choose the rows of a step: each is seen once before any is seen again."""
        size, found = self._settings.batch, []
        for position in range(self.step * size, (self.step + 1) * size):
            epoch, place = divmod(position, len(self._learnt))
            order = torch.Generator().manual_seed(self._settings.seed + epoch)
            picked = int(torch.randperm(len(self._learnt), generator=order)[place])
            found.append(self._learnt[picked])
        return found

    def _loss(self, rows: list[Encoded]) -> Tensor:
        """Nats per answer token of some rows."""
        device = self.rows.device
        ids = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True).to(device)
        own = [torch.tensor([*answer[1:], False]).float() for _, answer in rows]
        weights = pad_sequence(own, batch_first=True).to(device)
        with _reading(self._model, self.rows, self._ids.start):
            logits = self._model(input_ids=ids, use_cache=False).logits
        following, each = ids.roll(-1, 1).flatten(), (weights / weights.sum()).flatten()
        return distillation(logits.flatten(0, 1), None, following, 1.0, each)


def _schedule(step: int, steps: int) -> float:
    """Return the share of the highest rate; before steps are planned, that of the beginning."""
    if not steps:
        return _WARM_UP
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@contextmanager
def _reading(model: Any, rows: Tensor, first: int) -> Iterator[None]:
    """Let a model read, and predict, tokens from ``first`` on as ``rows``."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    scale = float(getattr(embedding, "embed_scale", 1.0))  # Gemma's
    inside = first < head.weight.shape[0]  # a row of the head stands there already
    asked: list[Tensor] = []

    def known(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        asked.append(args[0])
        return (args[0].where(args[0] < first, 0),)

    def read(_: Any, __: Any, found: Tensor) -> Tensor:
        ids = asked.pop()
        own = scale * rows[(ids - first).clamp(min=0)].to(found.dtype)
        return torch.where((ids >= first)[..., None], own, found)

    def predict(_: Any, args: tuple[Tensor], found: Tensor) -> Tensor:
        return found if inside else torch.cat([found, args[0] @ rows.to(found.dtype).T], -1)

    hooks = [
        embedding.register_forward_pre_hook(known),
        embedding.register_forward_hook(read),
        head.register_forward_hook(predict),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
