"""Scores against the papers' formulas, written out naively."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.methods import METHODS
from edgeprune.methods.statistics import Accumulator, mix
from edgeprune.patterns import Pattern, keep_mask


def statistics_of(inputs: torch.Tensor):
    accumulator = Accumulator(inputs.shape[-1], inputs.device)
    accumulator.add(inputs)
    return accumulator.statistics()


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
    ours = keep_mask(scores, Pattern(), sparsity)
    assert torch.equal(ours, naive_wanda_mask(weight, inputs, sparsity))


def test_magnitude_ranks_by_size_whatever_the_data():
    weight = torch.tensor([[0.5, -2.0, 1.0, -0.1]])
    loud = statistics_of(torch.tensor([[100.0, 0.0, 0.0, 100.0]]))
    assert METHODS["magnitude"].score(weight, loud).argsort().tolist() == [[3, 0, 2, 1]]


def test_accumulating_in_parts_is_accumulating_at_once():
    inputs = torch.randn(64, 8)
    parts = Accumulator(8, inputs.device)
    for part in inputs.split(10):
        parts.add(part)
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
