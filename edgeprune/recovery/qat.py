"""Quantization-aware training: the forward pass uses weights as the file will store them.

The gradient of a rounded weight is used for the weight itself (straight-through estimator, Bengio
et al., 1308.3432).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.formats.weights import Weights
from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.models.loading import stored_names
from edgeprune.planning.grid import Grid
from edgeprune.quantization.scales import codes, one_by_one
from edgeprune.recovery.masters import Masters


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
        calibration: tensors ``<name>.importance``, (in,), mean squares of the input.

    Attributes:
        scales: scales by name in the checkpoint, (out, in / block), fixed by `fit` for the rest of
            the training; empty before.
    """

    def __init__(
        self,
        model: Any,
        stored: frozenset[str],
        grids: Mapping[str, Grid],
        calibration: Weights,
    ):
        self._model = model
        self.scales: dict[str, Tensor] = {}
        self._matrices: dict[str, _OnGrid] = {}
        prefix, blocks = decoder_blocks(model)
        for index, block in enumerate(blocks if grids else []):
            matrices = weight_matrices(block)
            place = f"{prefix}.{index}."
            names = stored_names(model, place, block, matrices, stored)
            for own, matrix in matrices.items():
                name, parameter = names[own], block.get_parameter(matrix.parameter)
                whole = not matrix.transposed and matrix.view(parameter).shape == parameter.shape
                if name in grids and whole:
                    importance = calibration.read(f"{name}.importance").float()
                    self._matrices[place + matrix.parameter] = _OnGrid(
                        name, grids[name], importance.to(parameter.device)
                    )

    @property
    def pending(self) -> bool:
        """Tell whether there are matrices on a grid whose scales `fit` has not fixed yet."""
        return bool(self._matrices) and not self.scales

    @torch.no_grad()
    def fit(self, masters: Masters) -> None:
        """Fix the scales that fit the present weights, the same in every process."""
        for name, one in self._matrices.items():
            rows, columns = self._model.get_parameter(name).shape
            scale = one.importance.new_empty(rows, columns // one.grid.block)
            if name in masters.parameters:
                weight = masters.parameters[name].detach()
                importance = one.importance[:, None] * (weight != 0).T
                scale.copy_(one_by_one(weight, importance, one.grid)[1])
            masters.from_owner(name, scale)
            self.scales[one.stored] = scale

    @torch.no_grad()
    def fake_quantize(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight as the file will store it, by its name in the model."""
        one = self._matrices.get(name)
        if one is None or not self.scales:
            return weight
        scale = self.scales[one.stored].repeat_interleave(one.grid.block, dim=1)
        return codes(one.grid, weight, scale) * scale
