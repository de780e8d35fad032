"""A training run on disk: weights and the optimizer's moments, without pickles."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.files import atomic_path, read_json, write_json
from edgeprune.sparsity.weights import save_tensors

_MOMENTS = ("exp_avg", "exp_avg_sq")
# Tensors that a run keeps besides its weights, by what they are and what they belong to.
Others = dict[str, dict[str, Tensor]]


@dataclass
class Progressed:
    """How far a run is.

    Attributes:
        step: steps done.
        steps: to do in all; 0 until a time budget has been turned into steps.
        points: of the curve, over all steps.
        compiled: whether torch compiled the blocks: a run that goes on must do so too.
        curve: ``step``, ``train`` loss since the last point, ``held_out`` loss, and whether weights
            were ``rounded``.
        best: the lowest held-out loss of weights that the run may end with.
    """

    step: int = 0
    steps: int = 0
    points: int = 0
    compiled: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: float = float("inf")


class RunFolder:
    """Where a run keeps its state; the file that is written last says that the rest is there."""

    def __init__(self, folder: Path):
        self._folder = folder

    def save(
        self,
        done: Progressed,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.AdamW,
        others: Others,
    ) -> None:
        """Keep everything that going on needs."""
        tensors = {
            f"{kind}:{name}": tensor
            for kind, named in others.items()
            for name, tensor in named.items()
        }
        for name, parameter in parameters.items():
            tensors[name] = parameter.detach()
            for moment in _MOMENTS:
                tensors[f"{moment}:{name}"] = optimizer.state[parameter][moment]
        path = self._folder / f"state-{done.step:06d}.safetensors"
        with atomic_path(path) as temporary:
            save_tensors(temporary, tensors)
        write_json(self._folder / "state.json", asdict(done))
        for old in self._folder.glob("state-*.safetensors"):
            if old != path:
                old.unlink()

    def resume(
        self,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.AdamW,
        others: Others,
    ) -> Progressed:
        """Put a run back to where it was kept; a new one if nothing was, or it is damaged.

        ``others`` are filled in place.
        """
        known: dict[str, Any] = read_json(self._folder / "state.json") or {}
        try:
            done = Progressed(**known)
            if not done.step:
                return done
            tensors = load_file(self._folder / f"state-{done.step:06d}.safetensors")
            moments = {
                n: {moment: tensors[f"{moment}:{n}"] for moment in _MOMENTS} for n in parameters
            }
            values = {name: tensors[name] for name in parameters}
        except (OSError, SafetensorError, KeyError, TypeError):
            return Progressed()
        device = next(iter(parameters.values())).device
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
                kept = {m: t.to(device) for m, t in moments[name].items()}
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(done.step), device=device),
                    **kept,
                }
        for name, tensor in tensors.items():
            kind, _, own = name.partition(":")
            if kind in others:
                others[kind][own] = tensor.to(device)
        return done

    def clean_up(self) -> None:
        """Drop what only an unfinished run needs."""
        for name in ("state-*.safetensors", "state.json"):
            for path in self._folder.glob(name):
                path.unlink()
