"""Allocations: formulas, exact totals, and what they do to a model."""

import sys
from pathlib import Path

import pytest
import torch
from edgeprune.engine.allocate import _blocks
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
from edgeprune.plan.allocation import ALLOCATIONS, Allocation
from edgeprune.plan.allocation.exact import exact
from edgeprune.plan.patterns import UNSTRUCTURED, Budget, parse
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.methods import wanda
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.support.files import read_json
from edgeprune.support.progress import Quiet
from tests.support.models import make_tiny
from tests.support.streams import streams_of

_MAP = (("q_proj", 0.4), ("layers.1.mlp", 0.2))


def allocation_of(kind: str) -> Allocation:
    return Allocation(kind, shares=_MAP if kind == "map" else ())


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
