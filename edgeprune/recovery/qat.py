"""Quantization-aware training: the forward pass uses weights as the file will store them.

The gradient of a rounded weight is used for the weight itself (straight-through estimator, Bengio
et al., 1308.3432). Scales stay as they were fitted, or are trained as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.formats.weights import Weights
from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.models.loading import embedding_names, stored_names
from edgeprune.planning.grid import Grid
from edgeprune.planning.tensors import block_of
from edgeprune.quantization.scales import codes, half, one_by_one, slopes
from edgeprune.recovery.masters import Masters

# Of trained scales: how far one moves in a step at most, as a share; Adam's memory.
_RATE = 2e-3
_MEAN, _SQUARE = 0.9, 0.95


@dataclass(frozen=True)
class _OnGrid:
    """A weight matrix that is a whole parameter, (out, in), and its grid."""

    stored: str  # its name in the checkpoint
    grid: Grid
    importance: Tensor  # (in,)


class FakeQuantizer:
    """Fake quantization of the matrices that a file stores on integer grids.

    Args:
        model: the student.
        stored: names of the checkpoint's tensors.
        grids: grids by those names. Matrices that are only part of a parameter are left to the
            exporter.
        calibration: tensors ``<name>.importance``, (in,), mean squares of the input. An embedding
            that is only looked up has none: all its columns count the same.
        learns: whether scales are trained.
        from_rounded: begin with the scales ``<name>.scales`` of the calibration, where there are
            some, instead of fitting them.

    Attributes:
        state: scales by name in the checkpoint, (out, in / block), from `fit` on; of trained ones
            also both moments. The same in every process; empty before.
    """

    def __init__(
        self,
        model: Any,
        stored: frozenset[str],
        grids: Mapping[str, Grid],
        calibration: Weights,
        learns: bool = False,
        from_rounded: bool = False,
    ):
        self._model, self._learns = model, learns
        self._given = calibration if from_rounded else Weights([])
        self.state: dict[str, Tensor] = {}
        names = _matrices(model, stored) if grids else {}
        if any(block_of(name) is None for name in grids):
            names |= embedding_names(model, stored)
        self._matrices = {
            own: _OnGrid(
                name, grids[name], _importance(calibration, name, model.get_parameter(own))
            )
            for own, name in names.items()
            if name in grids
        }

    @property
    def pending(self) -> bool:
        """Tell whether there are matrices on a grid whose scales `fit` has not set yet."""
        return bool(self._matrices) and not self.state

    @property
    def scales(self) -> dict[str, Tensor]:
        """Return the scales as files hold them, float16 numbers; empty before `fit`."""
        if not self.state:
            return {}
        return {one.stored: half(self.state[one.stored]) for one in self._matrices.values()}

    @torch.no_grad()
    def fit(self, masters: Masters) -> None:
        """Set the scales that fit the present weights, the same in every process."""
        for name, one in self._matrices.items():
            rows, columns = self._model.get_parameter(name).shape
            scale = one.importance.new_empty(rows, columns // one.grid.block)
            if (key := f"{one.stored}.scales") in self._given:
                scale.copy_(self._given.read(key).float())
            elif name in masters.parameters:
                weight = masters.parameters[name].detach()
                importance = one.importance[:, None] * (weight != 0).T
                scale.copy_(one_by_one(weight, importance, one.grid)[1])
            masters.from_owner(name, scale)
            self.state[one.stored] = scale
            if self._learns:
                for moment in ("mean", "square"):
                    self.state[f"{one.stored}.{moment}"] = torch.zeros_like(scale)

    @torch.no_grad()
    def learn(self, masters: Masters, share: float) -> None:
        """Move the scales against the gradients that the masters have by now.

        Adam on their logarithms, so that none changes its sign or becomes 0.

        Args:
            masters: the trained weights.
            share: fraction of the highest rate.
        """
        if not (self._learns and self.state):
            return
        for name, one in self._matrices.items():
            scale, mean, square = (
                self.state[f"{one.stored}{part}"] for part in ("", ".mean", ".square")
            )
            own = masters.parameters.get(name)
            if own is not None and own.grad is not None:
                gradient = slopes(one.grid, own.detach(), scale, own.grad) * scale
                mean.lerp_(gradient, 1 - _MEAN)
                square.lerp_(gradient.square(), 1 - _SQUARE)
                scale.mul_(torch.exp(-_RATE * share * mean / (square.sqrt() + 1e-12)))
            for tensor in (scale, mean, square):
                masters.from_owner(name, tensor)

    @torch.no_grad()
    def fake_quantize(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight as the file will store it, by its name in the model."""
        one = self._matrices.get(name)
        if one is None or not self.state:
            return weight
        scale = half(self.state[one.stored]).repeat_interleave(one.grid.block, dim=1)
        return codes(one.grid, weight, scale) * scale


def _matrices(model: Any, stored: frozenset[str]) -> dict[str, str]:
    """Map matrices of blocks that are whole parameters to their names in the checkpoint."""
    found = {}
    prefix, blocks = decoder_blocks(model)
    for index, block in enumerate(blocks):
        matrices, place = weight_matrices(block), f"{prefix}.{index}."
        names = stored_names(model, place, block, matrices, stored)
        for own, matrix in matrices.items():
            parameter = block.get_parameter(matrix.parameter)
            if not matrix.transposed and matrix.view(parameter).shape == parameter.shape:
                found[place + matrix.parameter] = names[own]
    return found


def _importance(calibration: Weights, name: str, weight: Tensor) -> Tensor:
    key = f"{name}.importance"
    if key not in calibration:
        return torch.ones(weight.shape[1], device=weight.device)
    return calibration.read(key).float().to(weight.device)
