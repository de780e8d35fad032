import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.patterns import UNSTRUCTURED, Budget, parse, spread

shapes = st.tuples(st.integers(1, 9), st.integers(1, 12))


def scores_of(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(shapes, st.floats(0, 0.99), st.integers(0, 99))
def test_unstructured_removes_the_exact_number_evenly_over_rows(shape, sparsity, seed):
    rows, columns = shape[0], 4 * shape[1]
    scores = scores_of(rows, columns, seed)
    zeros = round(rows * columns * sparsity)
    mask = Budget(UNSTRUCTURED, zeros).keep(scores)
    per_row = (~mask).sum(1)
    assert per_row.sum() == zeros
    assert per_row.max() - per_row.min() <= 1
    for row, kept in zip(scores, mask, strict=True):
        if kept.any() and not kept.all():
            assert row[kept].min() >= row[~kept].max()


@given(shapes, st.sampled_from(["1:2", "2:4", "4:8", "1:4", "32:64"]), st.integers(0, 99))
def test_n_of_m_holds_in_every_group_and_keeps_the_best(shape, text, seed):
    pattern = parse(text)
    assert pattern.name == text
    scores = scores_of(shape[0], pattern.unit * shape[1], seed)
    mask = Budget(pattern, 0).keep(scores)
    groups = mask.reshape(shape[0], -1, pattern.unit)
    assert (groups.sum(-1) == pattern.kept).all()
    values = scores.reshape(groups.shape)
    smallest_kept = values.masked_fill(~groups, torch.inf).amin(-1)
    largest_gone = values.masked_fill(groups, -torch.inf).amax(-1)
    assert (smallest_kept >= largest_gone).all()


def test_ties_still_give_exact_counts():
    assert (Budget(UNSTRUCTURED, 12).keep(torch.zeros(3, 8)).sum(1) == 4).all()
    assert (Budget(parse("2:4"), 0).keep(torch.zeros(3, 8)).sum(1) == 4).all()


@given(st.integers(0, 1000), st.integers(1, 50))
def test_spreading_is_exact_and_even(total, parts):
    numbers = spread(total, parts)
    assert numbers.sum() == total
    assert numbers.max() - numbers.min() <= 1


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        Budget(parse("2:4"), 0).keep(torch.rand(2, 6))
