"""The solver, beside every choice there is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.budget import Candidate, Part, cheapest, choose

NUMBERS = st.floats(0, 100).map(lambda value: round(value, 2))


def part(name, pairs):
    candidates = [Candidate(str(i), cost, loss) for i, (cost, loss) in enumerate(pairs)]
    return Part(name, candidates)


PARTS = st.lists(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5
).map(lambda all_: [part(f"p{i}", one) for i, one in enumerate(all_)])


def every(parts):
    return itertools.product(*(one.candidates for one in parts))


def best_by_hand(parts, budget):
    sums = [(sum(c.loss for c in one), sum(c.cost for c in one)) for one in every(parts)]
    return min((loss for loss, cost in sums if cost <= budget), default=None)


@given(PARTS, st.floats(0, 300))
def test_a_choice_is_within_its_budget_and_one_candidate_from_the_best(parts, budget):
    found, best = choose(parts, budget), best_by_hand(parts, budget)
    if best is None:
        assert found is None
        return
    assert found.cost <= budget + 1e-6
    assert set(found.picked) == {one.name for one in parts}
    assert found.cost == pytest.approx(sum(one.cost for one in found.picked.values()), abs=1e-6)
    largest = max(max(c.loss for c in one.candidates) - min(c.loss for c in one.candidates)
                  for one in parts)  # fmt: skip
    assert best - 1e-6 <= found.loss <= best + largest + 1e-6


@given(PARTS, st.floats(0, 300))
def test_the_cheapest_within_a_loss(parts, bound):
    found = cheapest(parts, bound)
    costs = [sum(c.cost for c in one) for one in every(parts) if sum(c.loss for c in one) <= bound]
    assert (found is None) == (not costs)
    if found:
        assert found.loss <= bound + 1e-6
        assert found.cost >= min(costs) - 1e-6


def test_many_parts_are_chosen_to_half_a_percent():
    """As a model has: many tensors, each with codes of falling width."""
    parts = [
        part(f"t{i}", [(size * bits / 8, size * 4.0**-bits * (1 + i % 7)) for bits in (2, 3, 4, 8)])
        for i, size in enumerate([320, 640, 880] * 70)
    ]
    whole = sum(one.candidates[-1].cost for one in parts)
    for share in (0.3, 0.4, 0.55, 0.8):
        found = choose(parts, share * whole)
        assert 0.995 * share * whole < found.cost <= share * whole
    assert choose(parts, 0.2 * whole) is None
    assert choose(parts, 2 * whole).cost == whole


def test_a_group_goes_as_a_whole_where_that_is_better():
    inside = [part("q", [(4, 0.0), (2, 3.0)]), part("k", [(4, 0.0), (2, 3.0)])]
    block = Part("block", [Candidate("out", 0.0, 5.0)], inside)
    other = part("head", [(8, 0.0), (4, 1.0)])
    assert choose([block, other], 16).loss == 0
    assert choose([block, other], 8).loss == 5.0
    out = choose([block, other], 7)
    assert out.picked["block"].name == "out"
    assert "q" not in out.picked
    assert choose([block, other], 3) is None
