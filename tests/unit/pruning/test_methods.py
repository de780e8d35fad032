"""Scores against the papers' formulas, written out naively."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.planning.patterns import UNSTRUCTURED, Budget, parse
from edgeprune.pruning.gram import DAMPING, Gram
from edgeprune.pruning.methods import METHODS, rose, sparsegpt
from edgeprune.pruning.statistics import Accumulator, mix
from edgeprune.pruning.updates.least_squares import refit
from edgeprune.pruning.updates.permute import channel_order
from edgeprune.pruning.updates.swaps import refine
from edgeprune.support.errors import InputError


def statistics_of(inputs: torch.Tensor, gram: bool = False, weights: torch.Tensor | None = None):
    accumulator = Accumulator(inputs.shape[-1], inputs.device, gram)
    accumulator.add(inputs, torch.ones(len(inputs)) if weights is None else weights)
    return accumulator.statistics()


def example(seed: int, rows: int = 12, columns: int = 32, tokens: int = 200):
    """Weights and correlated inputs of unequal scale, as a layer sees them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    scale = torch.rand(columns, generator=generator) * 3 + 0.1
    inputs = torch.randn(tokens, columns, generator=generator) @ (torch.eye(columns) + mixing)
    return weight, statistics_of(inputs * scale, gram=True)


def loss(weight: torch.Tensor, pruned: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    change = weight - pruned
    return ((change @ gram) * change).sum()


def half(weight: torch.Tensor, pattern: str = "unstructured") -> Budget:
    return Budget(parse(pattern), weight.numel() // 2)


def naive_wanda_mask(weight: torch.Tensor, inputs: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Section 3 of arXiv 2306.11695, one weight at a time."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    for i in range(weight.shape[0]):
        scores = []
        for j in range(weight.shape[1]):
            norm = math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]))
            scores.append((abs(float(weight[i, j])) * norm, j))
        for _, j in sorted(scores)[: round(weight.shape[1] * sparsity)]:
            mask[i, j] = False
    return mask


@given(st.integers(0, 50), st.sampled_from([0.25, 0.5, 0.7]))
def test_wanda_gives_the_papers_mask(seed, sparsity):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 16, generator=generator)
    inputs = torch.randn(20, 16, generator=generator) * torch.rand(16, generator=generator) * 5
    scores = METHODS["wanda"].score(weight, statistics_of(inputs))
    ours = Budget(UNSTRUCTURED, 5 * round(16 * sparsity)).keep(scores)
    assert torch.equal(ours, naive_wanda_mask(weight, inputs, sparsity))


def test_magnitude_ranks_by_size_whatever_the_data():
    weight = torch.tensor([[0.5, -2.0, 1.0, -0.1]])
    loud = statistics_of(torch.tensor([[100.0, 0.0, 0.0, 100.0]]))
    assert METHODS["magnitude"].score(weight, loud).argsort().tolist() == [[3, 0, 2, 1]]


def test_accumulating_in_parts_is_accumulating_at_once():
    inputs = torch.randn(64, 8)
    parts = Accumulator(8, inputs.device)
    for part in inputs.split(10):
        parts.add(part, torch.ones(len(part)))
    assert parts.statistics().tokens == 64
    torch.testing.assert_close(
        parts.statistics().second_moment, inputs.square().mean(0), rtol=1e-5, atol=1e-6
    )


def test_bfloat16_inputs_are_summed_in_float32():
    inputs = torch.full((70_000, 1), 1.0, dtype=torch.bfloat16)  # a bfloat16 sum stops at 256
    assert statistics_of(inputs).second_moment.item() == 1.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mix_weighs_streams_by_their_trace(share):
    quiet = statistics_of(torch.tensor([[1.0, 2.0]]))
    loud = statistics_of(torch.tensor([[300.0, 100.0]]))
    mixed = mix(quiet, loud, share).second_moment
    expected = (1 - share) * torch.tensor([0.2, 0.8]) + share * torch.tensor([0.9, 0.1])
    torch.testing.assert_close(mixed, expected)


@given(st.integers(0, 30))
def test_gram_matrices_are_summed_exactly_and_symmetric(seed):
    inputs = torch.randn(50, 300, generator=torch.Generator().manual_seed(seed))
    weights = torch.rand(50, generator=torch.Generator().manual_seed(seed)) + 0.1
    statistics = statistics_of(inputs, gram=True, weights=weights)
    expected = (inputs.double().T * weights) @ inputs.double() / weights.sum()
    torch.testing.assert_close(statistics.gram.matrix.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(statistics.gram.matrix, statistics.gram.matrix.T)
    assert torch.equal(statistics.second_moment, statistics.gram.matrix.diagonal())


def naive_ria(weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Equation of the RIA paper (ICLR 2024), a = 1/2, one weight at a time."""
    scores = torch.zeros_like(weight)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            w = abs(weight[i, j])
            column = sum(abs(v) for v in weight[:, j])
            row = sum(abs(v) for v in weight[i, :])
            norm = math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]))
            scores[i, j] = (w / column + w / row) * norm**0.5
    return scores


def test_ria_ranks_as_the_paper_does():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 16, generator=generator)
    inputs = torch.randn(20, 16, generator=generator) * torch.rand(16, generator=generator) * 5
    ours = METHODS["ria"].score(weight, statistics_of(inputs))
    assert torch.equal(ours.argsort(1), naive_ria(weight, inputs).argsort(1))


def test_isc_and_obs_are_the_papers_formulas():
    weight, statistics = example(2)
    matrix = statistics.gram.matrix.double()
    inverse = torch.linalg.inv(matrix + DAMPING * matrix.diagonal().mean() * torch.eye(32))
    obs = weight.double() ** 2 / inverse.diagonal()
    isc = weight.double() ** 2 * (matrix.diagonal() + 1 / inverse.diagonal())
    for name, expected in (("obs", obs), ("isc", isc)):
        ours = METHODS[name].score(weight, statistics).double()
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_wanda_plus_plus_and_fisher_are_their_formulas():
    weight, statistics = example(3)
    gradient = torch.rand_like(weight)
    seen = replace(statistics, gradient=gradient)
    rms = statistics.second_moment.sqrt()
    expected = (100 * gradient.sqrt() + rms) * weight.abs()
    torch.testing.assert_close(METHODS["wanda_pp"].score(weight, seen), expected.square())
    moment = statistics.second_moment
    expected = weight.square() * (moment / moment.mean() + gradient / gradient.mean())
    torch.testing.assert_close(METHODS["fisher"].score(weight, seen), expected)


def naive_sparsegpt(weight, gram, sparsity, block=128, pattern=None):
    """Algorithm 1 of arXiv 2301.00774: plain loops, inverse updated column by column."""
    weight, columns = weight.double().clone(), weight.shape[1]
    damped = gram.double() + DAMPING * gram.diagonal().double().mean() * torch.eye(columns)
    inverse = torch.linalg.inv(damped)
    # Row j of the Cholesky factor is row j of the inverse of the remaining submatrix, scaled.
    factor = torch.zeros_like(inverse)
    for j in range(columns):
        factor[j, j:] = inverse[j, j:] / inverse[j, j].sqrt()
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for start in range(0, columns, block):
        end = min(start + block, columns)
        mask = torch.ones(len(weight), end - start, dtype=torch.bool)
        if pattern is None:
            scores = weight[:, start:end] ** 2 / factor.diagonal()[start:end] ** 2
            order = scores.flatten().argsort()
            mask.view(-1)[order[: int(scores.numel() * sparsity)]] = False
        for j in range(start, end):
            if pattern and j % pattern[1] == 0:
                part = slice(j, j + pattern[1])
                scores = weight[:, part] ** 2 / factor.diagonal()[part] ** 2
                worst = scores.argsort(1)[:, : pattern[1] - pattern[0]]
                mask[:, j - start : j - start + pattern[1]].scatter_(1, worst, False)
            for i in range(len(weight)):
                if not mask[i, j - start]:
                    error = weight[i, j] / factor[j, j]
                    weight[i, j:] -= error * factor[j, j:]
                    weight[i, j] = 0
    return weight


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsegpt_is_the_papers_algorithm(pattern):
    weight, statistics = example(4, columns=160)
    ours = sparsegpt.solve(weight, statistics.gram, half(weight, pattern))
    parsed = None if pattern == "unstructured" else (2, 4)
    theirs = naive_sparsegpt(weight, statistics.gram.matrix, 0.5, pattern=parsed)
    assert torch.equal(ours != 0, theirs != 0)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


def test_the_factor_of_the_inverse_is_its_cholesky_factor():
    _, statistics = example(5)
    gram = statistics.gram
    torch.testing.assert_close(
        gram.inverse_factor.T @ gram.inverse_factor, gram.inverse, rtol=1e-4, atol=1e-5
    )


def test_rose_visits_heavy_columns_first_and_keeps_groups_together():
    weight, statistics = example(6, columns=256)
    weight[:, 128:] *= 50  # one block far heavier than the other
    budget = Budget(UNSTRUCTURED, weight.numel() * 9 // 10)
    order = rose.column_order(weight, statistics.gram, budget)
    assert order is not None
    assert sorted(order.tolist()) == list(range(256))
    assert (order[:128] >= 128).all()
    groups = rose.column_order(weight, statistics.gram, half(weight, "2:4"))
    assert torch.equal(groups.view(-1, 4) % 4, torch.arange(4).expand(64, 4))


def test_an_order_of_columns_changes_the_walk_not_the_layout():
    weight, statistics = example(7)
    straight = sparsegpt.solve(weight, statistics.gram, half(weight))
    same = sparsegpt.solve_in_order(weight, statistics.gram, half(weight), torch.arange(32))
    torch.testing.assert_close(straight, same)


@given(st.integers(0, 20))
def test_resolve_comes_to_the_exact_least_squares_solution(seed):
    weight, statistics = example(seed)
    mask = half(weight).keep(METHODS["wanda"].score(weight, statistics))
    ours = refit(weight, mask, statistics.gram, steps=60)
    assert torch.equal(ours != 0, mask)
    damped = statistics.gram.damped.double()
    scaled = statistics.gram.matrix
    for i, kept in enumerate(mask):
        right = (damped @ weight[i].double())[kept]
        exact = torch.linalg.solve(damped[kept][:, kept], right)
        torch.testing.assert_close(ours[i, kept].double(), exact, rtol=1e-2, atol=1e-2)
    few = refit(weight, mask, statistics.gram)
    assert loss(weight, few, scaled) <= loss(weight, weight * mask, scaled)


@given(st.integers(0, 20), st.sampled_from(["unstructured", "2:4"]))
def test_swaps_only_lower_the_loss_of_every_row_and_keep_the_pattern(seed, text):
    weight, statistics = example(seed)
    budget = half(weight, text)
    mask = budget.keep(METHODS["wanda"].score(weight, statistics))
    better = refine(weight, mask, statistics.gram, budget.pattern)
    damped = statistics.gram.damped
    for row, old, new in zip(weight, mask, better, strict=True):
        before = loss(row[None], (row * old)[None], damped)
        after = loss(row[None], (row * new)[None], damped)
        assert after <= before * (1 + 1e-4)
        assert old.sum() == new.sum()
    if text == "2:4":
        assert (better.view(-1, 4).sum(1) == 2).all()
    gain = loss(weight, weight * mask, damped) / loss(weight, weight * better, damped)
    assert gain > 1.05


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_solvers_order_as_published(pattern):
    """ALPS below SparseGPT below Wanda with least squares aside, on correlated inputs."""
    losses = {}
    for seed in range(5):
        weight, statistics = example(seed, 24, 64)
        gram, budget = statistics.gram, half(weight, pattern)
        wanda = budget.keep(METHODS["wanda"].score(weight, statistics))
        results = {"wanda": weight * wanda} | {
            name: METHODS[name].solve(weight, gram, budget)
            for name in ("alps", "alps_fast", "sparsegpt", "rose")
        }
        for name, pruned in results.items():
            assert (pruned == 0).sum() == weight.numel() // 2
            losses[name] = losses.get(name, 0) + loss(weight, pruned, gram.matrix)
    assert losses["alps"] < losses["alps_fast"] < losses["sparsegpt"] < losses["wanda"]


def test_damping_rises_until_the_factorisation_holds():
    broken = torch.eye(4)
    broken[0, 1] = broken[1, 0] = 1.5  # not positive definite
    gram = Gram(broken)
    assert torch.isfinite(gram.inverse).all()
    assert gram.damping == pytest.approx(1.0)
    hopeless = Gram(torch.full((3, 3), float("nan")))
    with pytest.raises(InputError, match="even with the largest damping"):
        _ = hopeless.inverse


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.solves])
def test_silent_inputs_give_finite_weights_and_the_exact_number_of_zeros(name):
    weight = torch.tensor([[0.5, -2.0, 1.0, -0.1]])
    pruned = METHODS[name].solve(weight, Gram(torch.zeros(4, 4)), half(weight))
    assert torch.isfinite(pruned).all()
    assert (pruned == 0).sum() == 2


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.solves])
def test_uncorrelated_inputs_leave_nothing_to_repair(name):
    """With ``H = I`` the largest weights of each row are the optimum; solvers come within 2 %."""
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    budget = half(weight)
    best = loss(weight, weight * budget.keep(weight.abs()), torch.eye(64))
    pruned = METHODS[name].solve(weight, Gram(torch.eye(64)), budget)
    limit = 1.02 if name.startswith("alps") else 1.0 + 1e-4
    assert loss(weight, pruned, torch.eye(64)) <= best * limit


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
def test_channel_order_is_a_permutation_that_keeps_more(text):
    pattern = parse(text)
    weight, statistics = example(8, 16, 64)
    weight[:, :16] *= 4  # strong channels side by side, where a group can't keep them all
    scores = METHODS["wanda"].score(weight, statistics)
    order = channel_order(scores, pattern)
    assert sorted(order.tolist()) == list(range(64))
    before = (scores * Budget(pattern, 0).keep(scores)).sum()
    after = (scores[:, order] * Budget(pattern, 0).keep(scores[:, order])).sum()
    assert after > 1.02 * before


def test_channel_order_of_equal_channels_stays():
    assert torch.equal(channel_order(torch.ones(4, 8), parse("2:4")), torch.arange(8))
