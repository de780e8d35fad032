"""Training with rounded weights: the forward pass sees what the file will hold.

The gradient of a rounded weight is taken for that of the weight itself (straight-through estimator,
Bengio et al., 1308.3432).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.models.hf import stored_names
from edgeprune.models.layers import decoder_blocks, weight_matrices
from edgeprune.quantization.fit import codes, one_by_one
from edgeprune.quantization.grid import Grid
from edgeprune.sparsity.weights import Weights


@dataclass(frozen=True)
class _Rounded:
    """A weight matrix that a whole parameter holds, (out, in), and what it is rounded to."""

    parameter: nn.Parameter
    grid: Grid
    importance: Tensor  # (in,)


class Rounding:
    """The matrices of a model that a file holds on integer grids.

    Args:
        model: the student.
        stored: names of the checkpoint's tensors.
        grids: by those names. Matrices that are only a part of a parameter are left to the
            exporter.
        calibration: holds ``<name>.importance``, (in,), mean squares of the input.

    Attributes:
        scales: by name, (out, in / block), fixed by `fit` for the rest of the training; empty
            before.
    """

    def __init__(
        self,
        model: Any,
        stored: frozenset[str],
        grids: Mapping[str, Grid],
        calibration: Weights,
    ):
        self.scales: dict[str, Tensor] = {}
        self._matrices: dict[str, _Rounded] = {}
        prefix, blocks = decoder_blocks(model)
        for index, block in enumerate(blocks if grids else []):
            matrices = weight_matrices(block)
            names = stored_names(model, f"{prefix}.{index}.", block, matrices, stored)
            for own, matrix in matrices.items():
                name, parameter = names[own], block.get_parameter(matrix.parameter)
                whole = not matrix.transposed and matrix.view(parameter).shape == parameter.shape
                if name in grids and whole:
                    importance = calibration.read(f"{name}.importance").float()
                    self._matrices[name] = _Rounded(
                        parameter, grids[name], importance.to(parameter.device)
                    )

    def __bool__(self) -> bool:
        return bool(self._matrices)

    @torch.no_grad()
    def fit(self) -> None:
        """Fix the scales that suit the weights as they are now."""
        for name, one in self._matrices.items():
            weight = one.parameter.data
            importance = one.importance[:, None] * (weight != 0).T
            self.scales[name] = one_by_one(weight, importance, one.grid)[1]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Rounded weights in the model's parameters; the exact ones are back afterwards."""
        exact = {name: self._matrices[name].parameter.data for name in self.scales}
        for name in exact:
            self._matrices[name].parameter.data = self._round(name)
        try:
            yield
        finally:
            for name, values in exact.items():
                self._matrices[name].parameter.data = values

    @torch.no_grad()
    def _round(self, name: str) -> Tensor:
        one = self._matrices[name]
        scale = self.scales[name].repeat_interleave(one.grid.block, dim=1)
        return codes(one.grid, one.parameter.data, scale) * scale
