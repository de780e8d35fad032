"""Losses after training: closer together, in the same order within a matrix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.evened import evened

LOSSES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.fixed_dictionaries({"q4_0": st.floats(1e-6, 1), "q4_0:3": st.floats(1e-6, 1)}),
    min_size=1,
)


@given(LOSSES, st.integers(1, 9))
def test_the_sum_stays_and_sensitivities_draw_near(losses, step):
    sizes = {name: 64 * (1 + step * place) for place, name in enumerate(losses)}
    found = evened(losses, sizes)
    before, after = (
        {name: sum(of.values()) / sizes[name] for name, of in one.items()}
        for one in (losses, found)
    )
    total = sum(before[name] * sizes[name] for name in sizes)
    assert sum(after[name] * sizes[name] for name in sizes) == pytest.approx(total)
    spread = [max(one.values()) / min(one.values()) for one in (before, after)]
    assert spread[1] == pytest.approx(spread[0] ** 0.5)
    for name, of in losses.items():  # within a matrix nothing changes but the unit
        ratios = [one["q4_0"] / one["q4_0:3"] for one in (of, found[name])]
        assert ratios[0] == pytest.approx(ratios[1])


@pytest.mark.parametrize("losses", [
    {}, {"a": {"x": 1.0}, "b": {"y": 1.0}}, {"a": {"x": 0.0}, "b": {"x": 1.0}},
])  # fmt: skip
def test_without_a_measure_of_sensitivity_losses_stay(losses):
    assert evened(losses, dict.fromkeys(losses, 64)) == losses
