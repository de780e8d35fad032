"""What every method gives on one small matrix: a change of maths must raise _PRUNE_VERSION.

Activations are small whole numbers and their count is a power of two, so that moments and Gram
matrix are exact in whatever order a processor adds them up. What is solved for is not, so weights
are held to 0.1 % through sums; masks are compared exactly, and the last test shows that no weight
stands so near the border that rounding could move it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.pipeline.keys import _PRUNE_VERSION
from edgeprune.planning.patterns import Budget, parse
from edgeprune.pruning.fusion import FusedStatistics, FusionRule
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.matrix import Pruning, prune_matrix
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.pruning.updates.permute import channel_order
from tests.support import golden

ROWS, COLUMNS, TOKENS = 8, 32, 256
PATTERNS = ("unstructured", "2:4")
EXTRAS = {"swaps": ("wanda", {"swaps": True}), "refit": ("wanda", {"refit": True})}


def whole_numbers(seed: int, most: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-most, most + 1, shape)).float()


def example(noise: float = 0.0) -> tuple[torch.Tensor, dict[str, InputStatistics]]:
    """Weights, and what both streams put in; ``noise`` is what another order of sums may add."""
    weight = whole_numbers(0, 1000, ROWS, COLUMNS) / 1024
    seen = {}
    for seed, stream in enumerate(("general", "task"), 1):
        scales = torch.arange(1, COLUMNS + 1).roll(7 * seed) % 5 + 1  # channels differ
        inputs = whole_numbers(seed, 3, TOKENS, COLUMNS) * scales
        gram = inputs.T @ inputs / TOKENS
        gram = gram * (1 + noise * whole_numbers(9, 1, COLUMNS, COLUMNS).triu())
        gram = torch.triu(gram) + torch.triu(gram, 1).T
        gradient = whole_numbers(seed + 5, 9, ROWS, COLUMNS).square() + 1
        seen[stream] = InputStatistics(gram.diagonal().clone(), TOKENS, Gram(gram), gradient)
    return weight, seen


def results(noise: float = 0.0) -> dict[str, dict[str, object]]:
    asked = {name: (name, {}) for name in METHODS} | EXTRAS
    weight, seen = example(noise)
    probe = torch.arange(1, COLUMNS + 1).remainder(7) - 3.0
    found = {}
    for name, (method, options) in asked.items():
        for fusion in ("mix", "fused"):
            for pattern in PATTERNS:
                pruning = Pruning(method, FusionRule(fusion), **options)
                budget = Budget(parse(pattern), weight.numel() // 2)
                pruned = prune_matrix(
                    weight, FusedStatistics(seen, pruning.fusion), pruning, budget
                )
                mask = np.packbits((pruned != 0).numpy()).tobytes().hex()
                sums = [float(f"{value:.5g}") for value in (pruned @ probe).tolist()]
                found[f"{name} {fusion} {pattern}"] = {"mask": mask, "sums": sums}
    return found


def test_methods_give_what_they_gave():
    path = Path(__file__).with_name("golden.json")
    golden.check(path, "_PRUNE_VERSION in edgeprune/pipeline/keys.py", _PRUNE_VERSION, results())


def test_channels_are_ordered_as_they_were():
    importance = whole_numbers(3, 10_000, ROWS, COLUMNS).abs()
    order = channel_order(importance, parse("2:4")).tolist()
    assert sorted(order) == list(range(COLUMNS))
    path = Path(__file__).with_name("golden_order.json")
    version = "_PRUNE_VERSION in edgeprune/pipeline/keys.py"
    golden.check(path, version, _PRUNE_VERSION, {"2:4": order})


@pytest.mark.parametrize("noise", [3e-6, -3e-6])
def test_no_weight_stands_near_the_border(noise):
    exact = results()
    for name, found in results(noise).items():
        assert found["mask"] == exact[name]["mask"], name
        assert found["sums"] == pytest.approx(exact[name]["sums"], rel=5e-4, abs=5e-5), name
