"""Allocations: numbers in, numbers out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.allocation import evolve
from edgeprune.planning.allocation.atp import ramp
from edgeprune.planning.allocation.exact import MOST, exact, limit
from edgeprune.planning.allocation.named import by_name
from edgeprune.planning.allocation.owl import owl
from edgeprune.planning.allocation.rank import by_rank
from edgeprune.support.errors import UsageError


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.floats(-2, 3)), min_size=1, max_size=40),
    st.floats(0, 0.99),
)
def test_zeros_add_up_exactly_and_keep_their_order(matrices, sparsity):
    sizes = {str(place): size for place, (size, _) in enumerate(matrices)}
    raw = {str(place): value for place, (_, value) in enumerate(matrices)}
    zeros = exact(raw, sizes, sparsity)
    assert sum(zeros.values()) == round(sparsity * sum(sizes.values()))
    for name, size in sizes.items():
        assert 0 <= zeros[name] <= limit(size, sparsity)
    for one, size in sizes.items():
        for other, other_size in sizes.items():
            if raw[one] <= raw[other]:  # up to the one weight that rounding moves
                assert (zeros[one] - 1) / size <= (zeros[other] + 1) / other_size


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40), st.floats(0, MOST))
def test_sparsities_that_meet_the_total_stay(sizes, sparsity):
    named = {str(place): size for place, size in enumerate(sizes)}
    zeros = exact(dict.fromkeys(named, sparsity), named, sparsity)
    for name, size in named.items():
        # Half a weight because the total is whole, one because this number is.
        assert abs(zeros[name] - sparsity * size) <= 1.5 + 1e-6


def test_atp_is_a_line_over_depth():
    assert ramp(5, 0.5, 0.1) == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6])
    assert ramp(1, 0.5, 0.1) == [0.5]


def test_owl_spares_blocks_with_outliers():
    assert owl([0.1, 0.2, 0.3], 0.5, 0.1) == pytest.approx([0.6, 0.5, 0.4])
    assert owl([0.2, 0.2], 0.7, 0.1) == pytest.approx([0.7, 0.7])


def test_rank_spares_what_is_sensitive_whatever_the_distances():
    shares = by_rank({"a": 0.0, "b": 90.0, "c": -1.0}, 0.5, 0.1)
    assert shares == pytest.approx({"b": 0.4, "a": 0.5, "c": 0.6})


def test_the_map_is_met_and_the_rest_share_what_is_left():
    sizes = {"q": 100, "k": 50, "v": 50}
    assert by_name(sizes, (("q", 0.4),), 0.5) == pytest.approx({"q": 0.4, "k": 0.6, "v": 0.6})
    assert by_name(sizes, (("q", 0.4), (".", 0.6)), 0.5) == pytest.approx(
        {"q": 0.4, "k": 0.6, "v": 0.6}  # the first pattern that is found counts
    )


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((("q", 0.01),), "0.005 to 0.480"),
        ((("q", 0.4), ("[kv]", 0.4)), "0.400 to 0.400"),
        ((("gate", 0.4),), "no matrix name matches 'gate'"),
        ((("q(", 0.4),), "not a regular expression"),
        ((("q", 1.0),), "expected 0 to 0.95"),
    ],
)
def test_a_map_that_makes_no_sense(shares, words):
    with pytest.raises(UsageError, match=words):
        by_name({"q": 100, "k": 50, "v": 50}, shares, 0.6)


def test_the_search_keeps_the_total_and_never_gets_worse():
    sizes = {"a": 1000, "b": 4000, "c": 2000, "d": 1000}
    best = {"a": 100, "b": 2400, "c": 1400, "d": 100}
    start = exact(dict.fromkeys(sizes, 0.5), sizes, 0.5)
    limits = {name: limit(size, 0.5) for name, size in sizes.items()}
    seen: list[tuple[int, float]] = []
    ticks: list[int] = []

    def distance(candidates, share):
        seen.append((len(candidates), share))
        for candidate in candidates:
            assert sum(candidate.values()) == 4000
            assert all(0 <= zeros <= limits[name] for name, zeros in candidate.items())
        return [sum(abs(c[name] - best[name]) for name in best) for c in candidates]

    result = evolve.search(start, sizes, limits, distance, lambda: ticks.append(1))
    assert result == best
    assert seen[1:4] == [(8, 0.25), (4, 0.5), (2, 1.0)]
    assert len(ticks) == evolve.GENERATIONS
    assert evolve.search(start, sizes, limits, distance, list) == result
    assert evolve.search(start, sizes, limits, lambda c, _: [0.0] * len(c), list) == start
