"""The column loop of optimal brain surgery: decide a column, repair its error by those to come."""

from collections.abc import Callable

import torch
from torch import Tensor

# Given the first column of a block, the block as it is by now, (width, out), and the factor's
# diagonal, (width, 1): what the j-th of its columns is set to, (out,).
Decide = Callable[[int, Tensor, Tensor], Callable[[int], Tensor]]


def sweep(weight: Tensor, factor: Tensor, width: int, decide: Decide) -> Tensor:
    """Set columns one after another, each error pushed onto the columns not yet visited.

    Changing column ``j`` by ``-e`` moves the later ones by ``-(e / U_jj) U_j,j:``, where ``U`` is
    the upper Cholesky factor of ``H⁻¹`` (arXiv 2301.00774, 2210.17323). Columns beyond a block are
    moved once, when the block is done.

    Args:
        weight: (out, in) float32.
        factor: (in, in), ``U``.
        width: columns of a block.
        decide: what each column becomes.

    Returns:
        (out, in).
    """
    # Transposed, so that the column at work and those behind it are contiguous: (in, out).
    columns = weight.T.clone(memory_format=torch.contiguous_format)
    for start in range(0, len(columns), width):
        end = min(start + width, len(columns))
        block, local = columns[start:end], factor[start:end, start:end]
        diagonal = local.diagonal()[:, None]
        value_of = decide(start, block, diagonal)
        errors = torch.empty_like(block)
        for j in range(len(block)):
            value = value_of(j)
            errors[j] = (block[j] - value) / diagonal[j]
            block[j] = value
            block[j + 1 :].addr_(local[j, j + 1 :], errors[j], alpha=-1)
        columns[end:] -= factor[start:end, end:].T @ errors
    return columns.T.contiguous()
