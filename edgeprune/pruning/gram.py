"""The Gram matrix of a layer's input, with the factorisations that solvers share.

Layers that read the same input (q, k and v; gate and up) hold the same `Gram`, so each
factorisation is made once for all of them.
"""

from functools import cached_property

import torch
from torch import Tensor

from edgeprune.support.errors import InputError

# Share of the mean diagonal added to the diagonal, as in SparseGPT (arXiv 2301.00774) and ALPS.
DAMPING = 0.01
_DAMPING_LIMIT = 10.0


class Gram:
    """``H = E[x xᵀ]`` over the tokens of one or both streams.

    Args:
        matrix: (in, in) float32, symmetric and positive semidefinite up to rounding.
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.damping = DAMPING

    @cached_property
    def damped(self) -> Tensor:
        """Return ``H + δ mean(diag H) I``, (in, in)."""
        return self._damped(DAMPING)

    @cached_property
    def norms(self) -> Tensor:
        """Return the roots of the damped diagonal, (in,)."""
        return self.damped.diagonal().sqrt()

    @cached_property
    def normalised(self) -> Tensor:
        """Return the damped matrix, (in, in), on channels scaled to norm 1: its diagonal is 1."""
        return self.damped / self.norms / self.norms[:, None]

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (in,), none negative, and eigenvectors (in, in) of `normalised`."""
        try:
            values, vectors = torch.linalg.eigh(self.normalised)
        except torch.linalg.LinAlgError:
            values, vectors = torch.linalg.eigh(self.normalised.double())
        return values.clamp_min(0).float(), vectors.float()

    @cached_property
    def inverse_factor(self) -> Tensor:
        """Return the upper Cholesky factor ``U``, (in, in), of `inverse`, ``inverse = Uᵀ U``.

        Found without the inverse: read from its end, the damped matrix is ``L Lᵀ``, and ``L⁻¹``
        read from its end is ``U``.

        The damping rises tenfold while the factorisation fails; `damping` holds the final value.

        Raises:
            InputError: no damping up to ten times the mean diagonal makes the matrix positive.
        """
        while self.damping <= _DAMPING_LIMIT:
            factor, failed = torch.linalg.cholesky_ex(self._damped(self.damping).flip(0, 1))
            if not failed:
                identity = torch.eye(len(factor), device=factor.device)
                upper = torch.linalg.solve_triangular(factor, identity, upper=False)
                return upper.flip(0, 1).contiguous()
            self.damping *= 10
        raise InputError(
            "The Gram matrix of a layer's inputs is not positive definite, even with the "
            "largest damping.",
            "Check the model for NaN or very large activations.",
        )

    @cached_property
    def inverse(self) -> Tensor:
        """Return the damped matrix' inverse, (in, in), with the damping of `inverse_factor`."""
        return self.inverse_factor.T @ self.inverse_factor

    def scaled(self, factors: Tensor) -> "Gram":
        """Return ``C H C`` for a diagonal ``C``; it stays positive semidefinite."""
        return Gram(factors[:, None] * self.matrix * factors)

    def _damped(self, damping: float) -> Tensor:
        mean = self.matrix.diagonal().mean()
        level = torch.where(mean == 0, 1.0, damping * mean)  # a silent input: channels are alike
        return self.matrix + level * torch.eye(len(self.matrix), device=self.matrix.device)
