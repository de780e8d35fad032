"""What allocations ask of the dense model, and what they do to a plan."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from edgeprune.data.streams import Stream
from edgeprune.engine import Pruning, prune
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity import storages
from edgeprune.engine.sensitivity.measures import fitness, sensitivity
from edgeprune.engine.sensitivity.model import DenseModel, matrices_by_block
from edgeprune.engine.sensitivity.survey import Survey
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model
from edgeprune.pipeline import planner
from edgeprune.planning.allocation import ALLOCATIONS, evolve
from edgeprune.planning.allocation.exact import exact
from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.planning.tensors import ModelPlan, Storage, TensorPlan
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.methods import wanda
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.support.progress import Quiet
from tests.support.models import make_small
from tests.support.plans import job_of, uniform_plan
from tests.support.streams import small_streams, streams_of


@pytest.fixture(autouse=True)
def few_generations(monkeypatch):
    """The search itself is tested on numbers; here it is asked what the model answers."""
    monkeypatch.setattr(evolve, "GENERATIONS", 3)


def settings_of(kind: str, **changes: object) -> dict[str, object]:
    """What a recipe says of pruning for an allocation."""
    shares = {"map": {"q_proj": 0.4, "layers.1.mlp": 0.2}} if kind == "map" else {}
    return {"allocation": {"kind": kind, **shares, **changes}}


def planned(folder: Path, work: Path, streams: dict[str, Stream], **settings: object) -> ModelPlan:
    return planner.plan(job_of(open_checkpoint(str(folder)), streams, work, **settings))


def zeros_of(plan: ModelPlan) -> dict[str, int]:
    return {name: row.zeros for name, row in plan.tensors.items() if row.zeros}


def shares_of(plan: ModelPlan) -> dict[str, float]:
    return {name: row.zeros / row.size for name, row in plan.tensors.items() if row.zeros}


@pytest.mark.parametrize("fusion", ["general", "fused"])
@pytest.mark.parametrize("sparsity", [0.5, 0.613])
@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_every_allocation_meets_the_total_exactly(small_folder, tmp_path, kind, sparsity, fusion):
    asked = {"sparsity": sparsity, "fusion": {"mode": fusion}, "head": True, **settings_of(kind)}
    plan = planned(small_folder, tmp_path, small_streams(), **asked)
    head = plan.tensors["model.embed_tokens.weight"]
    assert head.zeros == round(sparsity * head.size)
    blocks = [row for row in plan.tensors.values() if row.prunable]
    assert len(blocks) == 14
    assert sum(row.zeros for row in blocks) == round(sparsity * sum(row.size for row in blocks))
    assert plan.zeros == head.zeros + sum(row.zeros for row in blocks)
    shares = [row.zeros / row.size for row in blocks]
    assert (max(shares) - min(shares) > 0.01) == (kind != "uniform")


def test_the_engine_prunes_as_planned(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))
    plan = planned(
        small_folder, tmp_path / "plan", small_streams(2), head=True, **settings_of("map")
    )
    pruning = Pruning(head=True)
    result = prune(checkpoint, small_streams(2), pruning, plan, tmp_path / "work", Quiet())
    found = {r.name: r.shape[0] * r.shape[1] - r.nonzeros for r in result.records}
    assert found == zeros_of(plan)


def test_atp_rises_with_depth(tmp_path):
    folder = make_small(tmp_path / "model", num_hidden_layers=4)
    plan = uniform_plan(open_checkpoint(str(folder)), **settings_of("atp", spread=0.15))
    for depth, share in enumerate([0.35, 0.45, 0.55, 0.65]):
        inside = [s for name, s in shares_of(plan).items() if f"layers.{depth}." in name]
        assert inside == pytest.approx([share] * 7, abs=1e-3)


def test_the_map_reaches_the_matrices_by_name(small_folder):
    shares = shares_of(uniform_plan(open_checkpoint(str(small_folder)), **settings_of("map")))
    for name in [name for name in shares if "q_proj" in name]:
        assert shares.pop(name) == pytest.approx(0.4, abs=2e-4)
    for name in [name for name in shares if "layers.1.mlp" in name]:
        assert shares.pop(name) == pytest.approx(0.2, abs=2e-4)
    assert max(shares.values()) - min(shares.values()) < 1e-3


def test_the_map_gives_single_matrices_a_pattern(small_folder):
    allocation = {"kind": "map", "map": {"q_proj": "2:4", "mlp": 0.1}}
    plan = uniform_plan(open_checkpoint(str(small_folder)), 0.3, allocation=allocation)
    total = sum(row.zeros for row in plan.tensors.values())
    for row in plan.tensors.values():
        if "q_proj" in row.name:
            assert (row.pattern.name, 2 * row.zeros) == ("2:4", row.size)
        elif row.zeros:
            assert row.pattern.name == "unstructured"
    prunable = sum(row.size for row in plan.tensors.values() if row.prunable)
    assert total == pytest.approx(0.3 * prunable, abs=2)


def test_what_has_to_be_measured_is_uniform_in_an_estimate(small_folder):
    """`edgeprune plan` runs no model."""
    checkpoint = open_checkpoint(str(small_folder))
    expected = uniform_plan(checkpoint)
    for kind in (kind for kind, found in ALLOCATIONS.items() if found.measures):
        assert uniform_plan(checkpoint, **settings_of(kind)) == expected


def survey_of(folder: Path, streams: dict[str, Stream], fusion: str = "fused", **changes):
    checkpoint = open_checkpoint(str(folder))
    model = load_model(checkpoint)
    runner = BlockRunner(model, streams, torch.device("cpu"))
    blocks = matrices_by_block(runner, frozenset(checkpoint.weights().names()))
    pruning = Pruning(fusion=FusionRule(fusion, **changes))
    return model, blocks, Survey(runner, blocks, streams, pruning, Quiet())


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
def test_sensitivity_is_what_whole_model_passes_say(small_folder):
    streams = small_streams(4)
    model, _, survey = survey_of(small_folder, streams, "task")
    zeros = uniform_of(model)
    found = sensitivity(*survey.trials(), zeros, Quiet())
    assert found.keys() == zeros.keys()
    task = streams["task"]
    with torch.no_grad():
        dense = answers_loss(model(task.tokens, use_cache=False).logits, task)
    for name, count in zeros.items():
        expected = answers_loss(pruned_alone(model, name, count, task.tokens), task) - dense
        assert found[name] == pytest.approx(expected, rel=1e-2, abs=1e-3), name


def test_rank_gives_the_most_sensitive_matrices_the_least(tmp_path):
    """A model of which only one feed-forward network says anything, on text that it predicts."""
    folder = make_small(tmp_path / "model", vocab_size=49152)
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
    plan = planned(folder, tmp_path / "w", streams, **settings_of("rank", spread=0.2))
    shares = shares_of(plan)
    least = sorted(shares, key=shares.__getitem__)[:3]
    assert set(least) == {
        f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }
    assert max(shares.values()) - min(shares.values()) == pytest.approx(0.4, abs=0.01)


@pytest.mark.usefixtures("float32")
def test_fitness_is_the_weighted_divergence_of_whole_model_passes(small_folder):
    streams = {
        name: Stream(s.tokens[:4], s.answers[:4]) for name, s in small_streams(4, 16).items()
    }
    model, _, survey = survey_of(small_folder, streams, task_share=0.25)
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


def test_the_searched_allocation_is_no_further_from_the_dense_model(small_folder, tmp_path):
    found = [
        zeros_of(planned(small_folder, tmp_path / run, small_streams(), **settings_of("evolve")))
        for run in ("a", "b")
    ]
    assert found[0] == found[1]
    model, _, survey = survey_of(small_folder, small_streams(), "mix")
    judge = fitness(*survey.trials())
    uniform = uniform_of(model)
    assert found[0] != uniform
    assert judge([found[0]], 1.0) < judge([uniform], 1.0)


@pytest.mark.parametrize("kind", ["rank", "evolve"])
def test_an_allocation_is_measured_once(small_folder, tmp_path, monkeypatch, kind):
    first = planned(small_folder, tmp_path, small_streams(), **settings_of(kind))
    monkeypatch.setattr(DenseModel, "__init__", lambda *_: pytest.fail("measured again"))
    assert planned(small_folder, tmp_path, small_streams(), **settings_of(kind)) == first
    with pytest.raises(pytest.fail.Exception):
        planned(small_folder, tmp_path, small_streams(), **settings_of(kind, spread=0.2))


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

    states = first_states(trials.runner)
    trials.run([{}], [states])
    task = streams["task"]
    with torch.no_grad():
        expected = answers_loss(model(task.tokens).logits, task)
    assert trials.loss("task", states["task"]) == pytest.approx(expected, rel=1e-4)


def test_a_matrix_that_no_token_reached_loses_nothing():
    """Such as an expert's: its inputs have no power, and its storage does not matter."""
    silent = InputStatistics(torch.zeros(64), 0.0, Gram(torch.zeros(64, 64)))
    row = TensorPlan("w", "w", (8, 64), Storage("Q4_0", 288, Grid(-8, 7)))
    streams = [(share, silent, torch.ones(8)) for share in (0.5, 0.5)]
    assert storages._losses(torch.randn(8, 64), {"q4_0": row}, streams) == {"q4_0": 0.0}


def test_what_gptq_leaves_is_found_without_it():
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 64, generator=chance) @ torch.randn(64, 64, generator=chance)
    gram = Gram(inputs.T @ inputs / len(inputs))
    dense = torch.randn(256, 64, generator=chance)
    grid = Grid(-8, 7)
    row = TensorPlan("w", "w", (256, 64), Storage("Q4_0", 9216, grid))
    found = storages.stored_errors(dense, {"q4_0": row}, gram)["q4_0"].sum().item()
    change = round_to_grid(dense, gram, grid)[0] - dense
    left = ((change @ gram.damped) * change).sum().item()
    nearest = storages.nearest(dense, row, torch.ones(64)) - dense
    assert found == pytest.approx(left, rel=0.15)
    assert found < 0.7 * ((nearest @ gram.damped) * nearest).sum()
