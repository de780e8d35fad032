import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.pruning.fusion import FusedStatistics, FusionRule
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.matrix import Pruning, prune_matrix
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.statistics import InputStatistics, mix
from edgeprune.pruning.updates.least_squares import refit
from edgeprune.recipe.pruning import FUSION_MODES

WANDA = METHODS["wanda"].score


def channel_groups(general, task, rule):
    return FusedStatistics({"general": general, "task": task}, rule).groups


def fused_score(score, weight, general, task, rule):
    return FusedStatistics({"general": general, "task": task}, rule).score(
        lambda s: score(weight, s)
    )


def example(seed: int, channels: int = 24):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, channels, generator=generator)
    general, task = (
        InputStatistics(torch.rand(channels, generator=generator) + 0.01, 100) for _ in range(2)
    )
    return weight, general, task


def unit(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.mean()


@given(st.integers(0, 50), st.floats(0, 1), st.sampled_from(["quantile", "fixed"]))
def test_groups_are_a_partition(seed, tau, mode):
    _, general, task = example(seed)
    groups = channel_groups(general, task, FusionRule(tau=tau, tau_mode=mode))
    together = groups.shared.int() + groups.general.int() + groups.task.int()
    assert (together == 1).all()


@given(st.integers(0, 50), st.floats(0.001, 1000))
def test_a_scale_gap_alone_marks_nothing(seed, gap):
    _, general, _ = example(seed)
    louder = InputStatistics(general.second_moment * gap, 100)
    assert channel_groups(general, louder, FusionRule(tau=0.01, tau_mode="fixed")).shared.all()


def test_exclusive_channels_go_to_the_stream_that_uses_them():
    general = InputStatistics(torch.tensor([1.0, 1.0, 9.0, 1.0]), 1)
    task = InputStatistics(torch.tensor([1.0, 1.0, 1.0, 9.0]), 1)
    groups = channel_groups(general, task, FusionRule(tau=0.5, tau_mode="fixed"))
    assert groups.general.tolist() == [False, False, True, False]
    assert groups.task.tolist() == [False, False, False, True]


@given(st.integers(0, 50))
def test_tau_one_is_averaging_and_tau_zero_is_the_maximum(seed):
    weight, general, task = example(seed)
    s_general, s_task = unit(WANDA(weight, general)), unit(WANDA(weight, task))
    average = fused_score(WANDA, weight, general, task, FusionRule(tau=1.0, tau_mode="fixed"))
    torch.testing.assert_close(average, 0.5 * s_general + 0.5 * s_task)
    maximum = fused_score(WANDA, weight, general, task, FusionRule(tau=0.0, tau_mode="fixed"))
    torch.testing.assert_close(maximum, torch.maximum(s_general, s_task))


def test_single_stream_modes_and_mix_are_what_they_say():
    weight, general, task = example(1)
    expected = {
        "general": WANDA(weight, general),
        "task": WANDA(weight, task),
        "mix": WANDA(weight, mix(general, task, 0.3)),
    }
    for mode, scores in expected.items():
        rule = FusionRule(mode, task_share=0.3)
        assert torch.equal(fused_score(WANDA, weight, general, task, rule), scores)


def test_a_heavier_task_weight_protects_task_channels():
    weight, general, task = example(2)
    light = fused_score(WANDA, weight, general, task, FusionRule(task_weight=1.0))
    heavy = fused_score(WANDA, weight, general, task, FusionRule(task_weight=3.0))
    exclusive = ~channel_groups(general, task, FusionRule()).shared
    assert (heavy[:, exclusive] >= light[:, exclusive]).all()
    assert torch.equal(heavy[:, ~exclusive], light[:, ~exclusive])


@pytest.mark.parametrize("mode", FUSION_MODES)
def test_equal_streams_make_every_mode_rank_alike(mode):
    weight, general, _ = example(3)
    scores = fused_score(WANDA, weight, general, general, FusionRule(mode))
    assert torch.equal(scores.argsort(), WANDA(weight, general).argsort())


def test_a_silent_layer_gives_finite_scores():
    weight = torch.randn(2, 4)
    silent = InputStatistics(torch.zeros(4), 1)
    for mode in FUSION_MODES:
        assert torch.isfinite(fused_score(WANDA, weight, silent, silent, FusionRule(mode))).all()


def grams(seed: int, channels: int = 12):
    generator = torch.Generator().manual_seed(seed)
    seen = {}
    for name in ("general", "task"):
        inputs = torch.randn(40, channels, generator=generator) * torch.rand(channels) * 3
        matrix = inputs.T @ inputs / 40
        seen[name] = InputStatistics(matrix.diagonal().clone(), 40, Gram(matrix))
    return seen


@given(st.integers(0, 30))
def test_the_fused_gram_matrix_is_positive_and_its_diagonal_is_the_fused_norms(seed):
    seen = grams(seed)
    inputs = FusedStatistics(seen, FusionRule("fused"))
    matrix = inputs.hessian.matrix
    assert torch.linalg.eigvalsh(matrix.double()).min() > -1e-6
    general, task = (unit(seen[name].second_moment) for name in ("general", "task"))
    expected = torch.where(
        inputs.groups.shared, 0.5 * general + 0.5 * task, torch.maximum(general, task)
    )
    torch.testing.assert_close(matrix.diagonal(), expected, rtol=1e-4, atol=1e-6)


def test_solvers_run_on_the_joint_gram_matrix_unless_fused():
    seen = grams(1)
    for mode in ("general", "task", "mix"):
        inputs = FusedStatistics(seen, FusionRule(mode))
        assert inputs.hessian is inputs.joint.gram
    assert FusedStatistics(seen, FusionRule("general")).hessian is seen["general"].gram


def test_a_masked_hessian_takes_the_mask_from_fused_scores_and_repairs_on_the_mix():
    seen = grams(2)
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    inputs = FusedStatistics(seen, FusionRule("fused", hessian="masked"))
    budget = Budget(UNSTRUCTURED, 24)
    pruned = prune_matrix(weight, inputs, Pruning("alps"), budget)
    expected = budget.keep(inputs.score(lambda s: METHODS["obs"].score(weight, s)))
    assert torch.equal(pruned != 0, expected)
    torch.testing.assert_close(pruned, refit(weight, expected, inputs.joint.gram))


def test_one_stream_alone_needs_no_other():
    seen = {"general": grams(3)["general"]}
    inputs = FusedStatistics(seen, FusionRule("general"))
    assert inputs.exclusive_shares() is None
    assert inputs.joint is seen["general"]
