"""Ways to store a matrix."""

import pytest

from edgeprune.planning.patterns import parse
from edgeprune.planning.stored import Stored, dense, sparse
from edgeprune.planning.tensors import Storage, TensorPlan


def row(**storage):
    return TensorPlan("w", "w", (64, 128), Storage("Q4_0", 4608, **storage))


def test_names_and_zeros_say_what_an_allocation_would():
    half, pattern, more = sparse("q4_0", 0.5, "2:4", 0.33)
    assert [one.name for one in (half, pattern, more)] == [
        "q4_0, 50% zeros", "q4_0, 2:4", "q4_0, 33% zeros",
    ]  # fmt: skip
    assert [one.zeros for one in (half, pattern, more)] == [0.5, "2:4", 0.33]
    assert pattern.in_type("q8_0") == Stored("q8_0", 0.5, parse("2:4"))


def test_a_tensor_gets_its_zeros_and_no_more():
    (plain,), (half, pattern) = dense("q4_0"), sparse("q4_0", 0.5, "2:4")
    assert plain.of(row()) is not None
    assert plain.of(row()).zeros == 0
    assert (half.of(row()).zeros, half.of(row()).pattern.name) == (4096, "unstructured")
    assert (pattern.of(row()).zeros, pattern.of(row()).pattern.name) == (4096, "2:4")


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="0 < N < M"):
        sparse("q4_0", "4:4")
