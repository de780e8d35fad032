import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.patterns import Pattern, keep_mask

shapes = st.tuples(st.integers(1, 9), st.integers(1, 12))


def scores_of(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(shapes, st.floats(0, 0.99), st.integers(0, 99))
def test_unstructured_removes_the_exact_share_of_every_row(shape, sparsity, seed):
    rows, columns = shape[0], 4 * shape[1]
    scores = scores_of(rows, columns, seed)
    mask = keep_mask(scores, Pattern(), sparsity)
    assert ((~mask).sum(1) == round(columns * sparsity)).all()
    for row, kept in zip(scores, mask, strict=True):
        if kept.any() and not kept.all():
            assert row[kept].min() >= row[~kept].max()


@given(shapes, st.sampled_from(["1:2", "2:4", "4:8", "1:4", "32:64"]), st.integers(0, 99))
def test_n_of_m_holds_in_every_group_and_keeps_the_best(shape, text, seed):
    pattern = Pattern.parse(text)
    assert str(pattern) == text
    scores = scores_of(shape[0], pattern.group * shape[1], seed)
    mask = keep_mask(scores, pattern, 0.0)
    groups = mask.reshape(shape[0], -1, pattern.group)
    assert (groups.sum(-1) == pattern.kept).all()
    values = scores.reshape(groups.shape)
    smallest_kept = values.masked_fill(~groups, torch.inf).amin(-1)
    largest_gone = values.masked_fill(groups, -torch.inf).amax(-1)
    assert (smallest_kept >= largest_gone).all()


def test_ties_still_give_exact_counts():
    assert (keep_mask(torch.zeros(3, 8), Pattern(), 0.5).sum(1) == 4).all()
    assert (keep_mask(torch.zeros(3, 8), Pattern.parse("2:4"), 0.5).sum(1) == 4).all()


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        keep_mask(torch.rand(2, 6), Pattern.parse("2:4"), 0.5)
