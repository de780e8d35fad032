"""A training run on disk: weights and optimizer moments, without pickles."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.recovery.masters import Masters
from edgeprune.support.distributed import agree, wait, world
from edgeprune.support.errors import InputError
from edgeprune.support.files import atomic_path, read_json, write_json

_MOMENTS = ("exp_avg", "exp_avg_sq")
_GRADIENTS, _SCALES = "gradients", "scales"


@dataclass
class TrainState:
    """The progress of a run.

    Attributes:
        step: number of steps done.
        steps: total number of steps; 0 until a time budget has been turned into steps.
        points: number of points of the curve, over all steps.
        judged: held-out sequences of each stream that a point takes; None: all.
        task_share: the task's share of the sequences of a step, the same in all steps.
        compiled: whether torch compiled the blocks; a resumed run must do so too.
        curve: ``step``, ``train`` loss since the last point, ``held_out`` loss, and whether weights
            were ``rounded``.
        best: the lowest held-out loss of weights that the run may return; None before the first.
    """

    step: int = 0
    steps: int = 0
    points: int = 0
    judged: int | None = None
    task_share: float = 0.0
    compiled: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None


class RunFolder:
    """The files of a run's state; the one written last marks the state as complete.

    A run can resume with more or fewer processes.

    Args:
        folder: the run's folder, shared by all processes.
        masters: the trained weights.
        optimizer: optimizer of their parameters.
        gradients: sums of absolute gradients of this process's weights, for selective updates;
            empty without these.
        scales: scales of rounded weights, the same in every process; empty before rounding.
    """

    def __init__(
        self,
        folder: Path,
        masters: Masters,
        optimizer: torch.optim.AdamW,
        gradients: dict[str, Tensor],
        scales: dict[str, Tensor],
    ):
        self._folder, self._masters, self._optimizer = folder, masters, optimizer
        self._gradients, self._scales = gradients, scales

    def save(self, state: TrainState) -> None:
        """Save everything that resuming needs."""
        own = self._masters.parameters
        kept = self._masters.gathered(own.__getitem__)
        parts = {m: {n: self._optimizer.state[p][m] for n, p in own.items()} for m in _MOMENTS}
        if self._gradients:
            parts[_GRADIENTS] = self._gradients
        for kind, part in parts.items():
            whole = self._masters.gathered(part.__getitem__)
            kept |= {f"{kind}:{name}": tensor for name, tensor in whole.items()}
        kept |= {f"{_SCALES}:{name}": scale for name, scale in self._scales.items()}
        if world()[0] == 0:
            path = _state(self._folder, state)
            with atomic_path(path) as temporary:
                save_tensors(temporary, kept)
            write_json(self._folder / "state.json", asdict(state))
            for old in self._folder.glob("state-*.safetensors"):
                if old != path:
                    old.unlink()
        wait()

    def resume(self) -> TrainState:
        """Restore a saved run; start a new one if there is none or it is damaged."""
        own = self._masters.parameters
        kinds = [*_MOMENTS, *([_GRADIENTS] if self._gradients else [])]
        known: dict[str, Any] = read_json(self._folder / "state.json") or {}
        try:
            state = TrainState(**known)
            kept = Weights([_state(self._folder, state)] if state.step else [])
            values = {name: kept.read(name) for name in own} if state.step else {}
            others = {k: {n: kept.read(f"{k}:{n}") for n in values} for k in kinds}
        except (OSError, SafetensorError, InputError, KeyError, TypeError):
            state = TrainState()
        if not agree(state.step):  # all go on, or none
            return TrainState()
        for name, parameter in own.items():
            parameter.data.copy_(values[name])
            moments = {m: others[m][name].to(parameter.device) for m in _MOMENTS}
            step = torch.tensor(float(state.step), device=parameter.device)
            self._optimizer.state[parameter] = {"step": step, **moments}
            if self._gradients:
                self._gradients[name].copy_(others[_GRADIENTS][name])
        device = next(iter(own.values())).device
        for name in kept.names():
            kind, _, own_name = name.partition(":")
            if kind == _SCALES:
                self._scales[own_name] = kept.read(name).to(device)
        return state


def drop_state(folder: Path) -> None:
    """Remove files that only an unfinished run needs."""
    for name in ("state-*.safetensors", "state.json"):
        for path in folder.glob(name):
            path.unlink(missing_ok=True)


def _state(folder: Path, state: TrainState) -> Path:
    return folder / f"state-{state.step:06d}.safetensors"
