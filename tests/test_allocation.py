"""Allocations: formulas, exact totals, and what they do to a model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from edgeprune.engine.allocate import _blocks
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional

from edgeprune.data.streams import Stream
from edgeprune.engine import Pruning, prune
from edgeprune.engine.runner import Walk
from edgeprune.engine.sensitivity.measures import fitness, sensitivity
from edgeprune.engine.sensitivity.survey import Survey
from edgeprune.engine.store import BlockStore
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model
from edgeprune.plan.allocation import ALLOCATIONS, Allocation, evolve
from edgeprune.plan.allocation.atp import ramp
from edgeprune.plan.allocation.exact import MOST, exact, limit
from edgeprune.plan.allocation.named import by_name
from edgeprune.plan.allocation.owl import owl
from edgeprune.plan.allocation.rank import by_rank
from edgeprune.plan.patterns import UNSTRUCTURED, Budget, parse
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.methods import wanda
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.support.errors import UsageError
from edgeprune.support.files import read_json
from edgeprune.support.progress import Quiet
from tests.conftest import make_tiny
from tests.test_engine import streams_of

_MAP = (("q_proj", 0.4), ("layers.1.mlp", 0.2))


def allocation_of(kind: str) -> Allocation:
    return Allocation(kind, shares=_MAP if kind == "map" else ())


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
        ((("gate", 0.4),), "no matrix has 'gate'"),
        ((("q(", 0.4),), "no regular expression"),
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


def test_names_cost_no_torch():
    code = "import sys, edgeprune.plan.allocation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("fusion", ["general", "fused"])
@pytest.mark.parametrize("sparsity", [0.5, 0.613])
@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_every_allocation_meets_the_total_exactly(tiny_folder, tmp_path, kind, sparsity, fusion):
    pruning = Pruning(
        fusion=FusionRule(fusion), sparsity=sparsity, allocation=allocation_of(kind), head=True
    )
    checkpoint = open_checkpoint(str(tiny_folder))
    result = prune(checkpoint, streams_of(), pruning, tmp_path, Quiet())
    *blocks, head = result.records
    zeros = {r.name: r.shape[0] * r.shape[1] - r.nonzeros for r in blocks}
    total = sum(r.shape[0] * r.shape[1] for r in blocks)
    assert sum(zeros.values()) == round(sparsity * total)
    assert zeros == read_json(tmp_path / "allocation.json")
    assert head.shape[0] * head.shape[1] - head.nonzeros == round(sparsity * 49152 * 64)
    shares = [record.sparsity for record in blocks]
    assert (max(shares) - min(shares) > 0.01) == (kind != "uniform")


def test_atp_rises_with_depth(real_checkpoint, tmp_path):
    folder = make_tiny(real_checkpoint, tmp_path / "model", num_hidden_layers=4)
    pruning = Pruning(sparsity=0.5, allocation=Allocation("atp", 0.15))
    result = prune(open_checkpoint(str(folder)), streams_of(2), pruning, tmp_path / "w", Quiet())
    for depth, share in enumerate([0.35, 0.45, 0.55, 0.65]):
        inside = [r.sparsity for r in result.records if f"layers.{depth}." in r.name]
        assert inside == pytest.approx([share] * 7, abs=1e-3)


def test_the_map_reaches_the_matrices_by_name(tiny_folder, tmp_path):
    pruning = Pruning(allocation=allocation_of("map"))
    checkpoint = open_checkpoint(str(tiny_folder))
    result = prune(checkpoint, streams_of(2), pruning, tmp_path, Quiet())
    shares = {record.name: record.sparsity for record in result.records}
    for name in [name for name in shares if "q_proj" in name]:
        assert shares.pop(name) == pytest.approx(0.4, abs=2e-4)
    for name in [name for name in shares if "layers.1.mlp" in name]:
        assert shares.pop(name) == pytest.approx(0.2, abs=2e-4)
    assert max(shares.values()) - min(shares.values()) < 1e-3


def test_n_of_m_is_left_alone(tiny_folder, tmp_path):
    pruning = Pruning(pattern=parse("2:4"), allocation=Allocation("atp"))
    checkpoint = open_checkpoint(str(tiny_folder))
    result = prune(checkpoint, streams_of(2), pruning, tmp_path, Quiet())
    assert {record.sparsity for record in result.records} == {0.5}


def survey_of(folder: Path, streams: dict[str, Stream], fusion: str = "fused", **changes):
    checkpoint = open_checkpoint(str(folder))
    model = load_model(checkpoint)
    walk = Walk(model, streams, torch.device("cpu"))
    blocks = _blocks(walk, frozenset(checkpoint.weights().names()))
    pruning = Pruning(fusion=FusionRule(fusion, **changes))
    return model, blocks, Survey(walk, blocks, streams, pruning, Quiet())


def uniform_of(model) -> dict[str, int]:
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if ".layers." in name and parameter.dim() == 2
    }
    return exact(dict.fromkeys(sizes, 0.5), sizes, 0.5)


@torch.no_grad()
def pruned_alone(model, name: str, zeros: int, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the whole model with one matrix pruned by Wanda on dense activations."""
    module = model.get_submodule(name.removesuffix(".weight"))
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(tokens, use_cache=False)
    hook.remove()
    dense = module.weight.clone()
    statistics = InputStatistics(seen[0].flatten(0, 1).square().mean(0), 1.0)
    module.weight *= Budget(UNSTRUCTURED, zeros).keep(wanda.score(dense, statistics))
    logits = model(tokens, use_cache=False).logits
    module.weight.copy_(dense)
    return logits


def answers_loss(logits: torch.Tensor, stream: Stream) -> float:
    wanted = stream.answers[:, 1:]
    return functional.cross_entropy(logits[:, :-1][wanted], stream.tokens[:, 1:][wanted]).item()


@pytest.mark.usefixtures("float32")
def test_sensitivity_is_what_whole_model_passes_say(tiny_folder):
    streams = {name: Stream(s.tokens[:4], s.answers[:4]) for name, s in streams_of().items()}
    model, _, survey = survey_of(tiny_folder, streams, "task")
    zeros = uniform_of(model)
    found = sensitivity(*survey.trials(), zeros, Quiet())
    assert found.keys() == zeros.keys()
    task = streams["task"]
    with torch.no_grad():
        dense = answers_loss(model(task.tokens, use_cache=False).logits, task)
    for name, count in zeros.items():
        expected = answers_loss(pruned_alone(model, name, count, task.tokens), task) - dense
        assert found[name] == pytest.approx(expected, rel=1e-2, abs=1e-3), name


def test_rank_gives_the_most_sensitive_matrices_the_least(real_checkpoint, tmp_path):
    """A model of which only one feed-forward network says anything, on text that it predicts."""
    folder = make_tiny(real_checkpoint, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "o_proj" in name or "layers.0.mlp.down_proj" in name:
            tensors[name].zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    model, streams = load_model(checkpoint), streams_of()
    tokens = streams["task"].tokens
    with torch.no_grad():
        for place in range(1, tokens.shape[1]):  # each token is the one the model expects
            tokens[:, place] = model(tokens[:, :place]).logits[:, -1].argmax(-1)
    pruning = Pruning(allocation=Allocation("rank", 0.2))
    result = prune(checkpoint, streams, pruning, tmp_path / "w", Quiet())
    zeros = read_json(tmp_path / "w" / "allocation.json")  # some weights were zero before
    shares = {r.name: zeros[r.name] / (r.shape[0] * r.shape[1]) for r in result.records}
    least = sorted(shares, key=shares.__getitem__)[:3]
    assert set(least) == {
        f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }
    assert max(shares.values()) - min(shares.values()) == pytest.approx(0.4, abs=0.01)


@pytest.mark.usefixtures("float32")
def test_fitness_is_the_weighted_divergence_of_whole_model_passes(tiny_folder):
    streams = {name: Stream(s.tokens[:4], s.answers[:4]) for name, s in streams_of(4, 16).items()}
    model, _, survey = survey_of(tiny_folder, streams, task_share=0.25)
    judge = fitness(*survey.trials())
    assert judge([{}, {}], 1.0) == pytest.approx([0.0, 0.0], abs=1e-6)
    name = "model.layers.1.mlp.down_proj.weight"
    (found,) = judge([{name: 64 * 128}], 1.0)
    expected = 0.0
    for stream, share in (("general", 0.75), ("task", 0.25)):
        part = streams[stream]
        before = part.answers[:, 1:]
        with torch.no_grad():
            dense = model(part.tokens).logits[:, :-1][before].log_softmax(-1)
        pruned = pruned_alone(model, name, 64 * 128, part.tokens)[:, :-1][before].log_softmax(-1)
        expected += share * (dense.exp() * (dense - pruned)).sum(-1).mean().item()
    assert expected > 0.01
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_searched_allocation_is_no_further_from_the_dense_model(tiny_folder, tmp_path):
    checkpoint = open_checkpoint(str(tiny_folder))
    pruning = Pruning(sparsity=0.5, allocation=Allocation("evolve"))
    for run in ("a", "b"):
        prune(checkpoint, streams_of(), pruning, tmp_path / run, Quiet())
    found = read_json(tmp_path / "a" / "allocation.json")
    assert found == read_json(tmp_path / "b" / "allocation.json")
    model, _, survey = survey_of(tiny_folder, streams_of())
    judge = fitness(*survey.trials())
    uniform = uniform_of(model)
    assert found != uniform
    assert judge([found], 1.0) < judge([uniform], 1.0)


@pytest.mark.parametrize("kind", ["rank", "evolve"])
def test_a_run_that_goes_on_reuses_its_allocation(tiny_folder, tmp_path, monkeypatch, kind):
    checkpoint = open_checkpoint(str(tiny_folder))
    pruning = Pruning(allocation=Allocation(kind))
    whole = prune(checkpoint, streams_of(), pruning, tmp_path / "whole", Quiet())
    saved = BlockStore.save_block

    def save_then_stop(self, *what):
        saved(self, *what)
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockStore, "save_block", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        prune(checkpoint, streams_of(), pruning, tmp_path / "cut", Quiet())
    monkeypatch.setattr(BlockStore, "save_block", saved)
    module = sys.modules["edgeprune.engine.allocate"]
    monkeypatch.setattr(module, "Survey", lambda *_: pytest.fail("measured again"))
    cut = prune(checkpoint, streams_of(), pruning, tmp_path / "cut", Quiet())
    for one, other in zip(whole.files, cut.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.usefixtures("float32")
def test_logits_are_as_the_model_makes_them(tmp_path):
    """Gemma 2 bends its logits after the head; a head alone would not."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=1.0,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    streams = streams_of(3, 16, 64)
    model, _, survey = survey_of(tmp_path / "gemma", streams)
    trials, _ = survey.trials()
    from edgeprune.engine.sensitivity.trials import first_states

    states = first_states(trials.walk)
    trials.run([{}], [states])
    task = streams["task"]
    with torch.no_grad():
        expected = answers_loss(model(task.tokens).logits, task)
    assert trials.loss("task", states["task"]) == pytest.approx(expected, rel=1e-4)


_TWO = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.test_engine import streams_of
from edgeprune.plan.allocation import Allocation
from edgeprune.engine import Pruning, prune
from edgeprune.models import open_checkpoint
from edgeprune.support.progress import Quiet
model, kind, folder, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}-meet", rank=int(rank), world_size=2)
pruning = Pruning(allocation=Allocation(kind))
prune(open_checkpoint(model), streams_of(), pruning, Path(folder), Quiet())
"""


@pytest.mark.parametrize("kind", ["rank", "evolve"])
def test_two_processes_agree(tiny_folder, tmp_path, kind):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO, str(tiny_folder), kind, str(tmp_path / "run"), str(rank)],
            cwd=Path(__file__).parents[1],
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    zeros = read_json(tmp_path / "run" / "allocation.json")
    pruning = Pruning(allocation=Allocation(kind))
    checkpoint = open_checkpoint(str(tiny_folder))
    alone = prune(checkpoint, streams_of(), pruning, tmp_path / "alone", Quiet())
    if kind == "rank":  # evolve's rounds see other sequences when these are dealt out
        assert zeros == read_json(tmp_path / "alone" / "allocation.json")
    assert sum(zeros.values()) == sum(r.shape[0] * r.shape[1] - r.nonzeros for r in alone.records)
