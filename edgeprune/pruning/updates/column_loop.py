"""The column loop of optimal brain surgery: decide a column, then update the later ones."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

# Given the first column of a block, the block as it is by now, (width, out), and the factor's
# diagonal, (width, 1): what the j-th of its columns is set to, (out,).
Decide = Callable[[int, Tensor, Tensor], Callable[[int], Tensor]]


# Columns whose errors reach each other one by one; those behind get them in one matrix product.
_PANEL = 16


def column_loop(weight: Tensor, factor: Tensor, width: int, unit: int, decide: Decide) -> Tensor:
    """Set columns one after another, and compensate each error in the columns not yet visited.

    Changing column ``j`` by ``-e`` moves the later ones by ``-(e / U_jj) U_j,j:``, where ``U`` is
    the upper Cholesky factor of ``H⁻¹`` (arXiv 2301.00774, 2210.17323). Columns beyond a panel are
    moved once, when the panel is done, and columns beyond a block when the block is.

    Args:
        weight: (out, in) float32.
        factor: (in, in), ``U``.
        width: number of columns in a block, a multiple of ``unit``.
        unit: number of columns that are all up to date when the first of them is decided.
        decide: gives the new values of each column.

    Returns:
        (out, in).
    """
    # Transposed, so that the column at work and those behind it are contiguous: (in, out).
    columns = weight.T.clone(memory_format=torch.contiguous_format)
    panel = max(_PANEL // unit, 1) * unit
    for start in range(0, len(columns), width):
        end = min(start + width, len(columns))
        block, local = columns[start:end], factor[start:end, start:end]
        diagonal = local.diagonal()[:, None]
        value_of = decide(start, block, diagonal)
        errors = torch.empty_like(block)
        # Views made once: with narrow matrices, making them takes as long as the arithmetic.
        steps = zip(block.unbind(), errors.unbind(), diagonal.unbind(), local.unbind(), strict=True)
        for first in range(0, len(block), panel):
            last = min(first + panel, len(block))
            for j, (column, error, pivot, row) in enumerate(islice(steps, panel), first):
                value = value_of(j)
                torch.sub(column, value, out=error).div_(pivot)
                column.copy_(value)
                block[j + 1 : last].addr_(row[j + 1 : last], error, alpha=-1)
            block[last:].addmm_(local[first:last, last:].T, errors[first:last], alpha=-1)
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return columns.T.contiguous()
