"""Every kind of block: what is pruned, what stays, and that the files load as what was pruned."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from edgeprune.engine import Pruning
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.token_weights import token_weights
from edgeprune.models import open_checkpoint
from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.models.loading import load_model
from edgeprune.models.stored import stored_tensors
from edgeprune.pruning.fusion import FusionRule
from edgeprune.support.errors import InputError
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

_COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_QWEN_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "num_hidden_layers": 3, "sliding_window_pattern": 3},
    "phi3": {},
    "gpt2": {"n_inner": 96},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": _QWEN_MOE | {"shared_expert_intermediate_size": 48, "mlp_only_layers": [0]},
    "qwen3_moe": _QWEN_MOE | {"head_dim": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}
MATRICES = {  # of all blocks: tensors on disk that must be pruned
    "llama": 14,
    "mistral": 14,
    "qwen2": 14,
    "qwen3": 14,
    "gemma3_text": 21,
    "phi3": 8,
    "gpt2": 8,
    "gpt_neox": 8,
    "mixtral": 2 * (4 + 4 * 3),
    "qwen2_moe": 7 + 4 + 4 * 3 + 3,
    "qwen3_moe": 2 * (4 + 4 * 3),
    "olmoe": 2 * (4 + 4 * 3),
}


def make(name: str, folder: Path, **save: bool) -> Path:
    """A tiny random model with weights large enough that its blocks matter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **_COMMON | ARCHITECTURES[name])
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 0.02)
    model.save_pretrained(folder, **save)
    return folder


@pytest.fixture
def pruned_models(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that the engine pruned in memory."""
    models: list[nn.Module] = []

    def load(*args):
        models.append(load_model(*args))
        return models[-1]

    monkeypatch.setattr(sys.modules["edgeprune.engine.prune"], "load_model", load)
    return models


def prune_and_reload(folder: Path, work: Path, pruning: Pruning):
    """The result, and the model that transformers loads from base and pruned files together."""
    streams = streams_of(4, 32, vocabulary=128)
    result = prune_uniformly(open_checkpoint(str(folder)), streams, pruning, work)
    merged = shutil.copytree(folder, work / "merged")
    weights = result.weights()
    assert set(weights.names()) == set(result.base.weights().names())
    tensors = {name: weights.read(name) for name in weights.names()}
    save_file(tensors, merged / "model.safetensors", {"format": "pt"})
    return result, load_model(open_checkpoint(str(merged)))


def assert_only_matrices_changed(dense: nn.Module, sparse: nn.Module, kept_as_they_were: bool):
    prefix, blocks = decoder_blocks(sparse)
    before, after = dense.state_dict(), sparse.state_dict()
    for index, block in enumerate(blocks):
        for matrix in weight_matrices(block).values():
            name = f"{prefix}.{index}.{matrix.parameter}"
            old, new = matrix.view(before[name]), matrix.view(after[name])
            assert 2 * (new == 0).sum() == new.numel()
            if kept_as_they_were:
                assert torch.equal(new, old.where(new != 0, torch.zeros(())))
            else:
                assert not torch.equal(new, old.where(new != 0, torch.zeros(())))
            old.copy_(new)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_wanda_on_every_architecture(tmp_path, pruned_models, name):
    folder = make(name, tmp_path / "model")
    dense = load_model(open_checkpoint(str(folder)))
    result, loaded = prune_and_reload(folder, tmp_path / "work", Pruning())
    (pruned,) = pruned_models
    in_memory = pruned.state_dict()
    assert in_memory.keys() == loaded.state_dict().keys()
    assert all(torch.equal(in_memory[n], tensor) for n, tensor in loaded.state_dict().items())
    assert_only_matrices_changed(dense, loaded, kept_as_they_were=True)
    assert len({record.name for record in result.records}) == MATRICES[name]
    weights = result.weights()
    stored = {tensor for file in result.files for tensor in load_file(file)}
    assert stored == {record.name for record in result.records}
    for record in result.records:
        assert record.sparsity == 0.5
        assert record.nonzeros == int((weights.read(record.name) != 0).sum())


@pytest.mark.parametrize("method", ["alps", "wanda_pp", "fisher"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "mixtral"])
def test_solvers_and_gradients_on_unusual_layouts(tmp_path, pruned_models, name, method):
    folder = make(name, tmp_path / "model")
    dense = load_model(open_checkpoint(str(folder)))
    _, loaded = prune_and_reload(folder, tmp_path / "work", Pruning(method))
    in_memory = pruned_models[0].state_dict()
    assert all(torch.equal(in_memory[n], tensor) for n, tensor in loaded.state_dict().items())
    assert_only_matrices_changed(dense, loaded, kept_as_they_were=method != "alps")


@pytest.mark.parametrize("name", ["gpt2", "bare gpt2", "gpt_neox", "mixtral"])
def test_a_model_opened_on_given_weights_is_the_one_of_its_files(tmp_path, name):
    folder = make(name.removeprefix("bare "), tmp_path / "model")
    if name.startswith("bare"):
        tensors = load_file(folder / "model.safetensors")
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        save_file(bare, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    weights = checkpoint.weights()
    expected = load_model(checkpoint, torch.bfloat16).state_dict()
    model = load_model(checkpoint, torch.bfloat16, weights)
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in found)
    _, blocks = decoder_blocks(model)
    trained = {
        n: p for n, p in model.named_parameters() if any(p is q for q in blocks.parameters())
    }
    stored = stored_tensors(model, trained, weights.names())
    assert stored
    assert all(torch.equal(stored[n], weights.read(n).bfloat16()) for n in stored)


def test_checkpoints_of_the_bare_model_keep_their_names(tmp_path):
    folder = make("gpt2", tmp_path / "model")  # the hub's gpt2 has no prefix
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    dense = load_model(open_checkpoint(str(folder)))
    result, loaded = prune_and_reload(folder, tmp_path / "work", Pruning(head=True))
    assert result.records[0].name == "h.0.attn.c_attn.weight"
    assert result.records[-1].name == "wte.weight"
    dense.transformer.wte.weight.data.copy_(loaded.transformer.wte.weight)
    assert_only_matrices_changed(dense, loaded, kept_as_they_were=True)


def test_experts_that_are_stored_stacked_are_stored_stacked(tmp_path):
    folder = make("mixtral", tmp_path / "model", save_original_format=False)
    dense = load_model(open_checkpoint(str(folder)))
    result, loaded = prune_and_reload(folder, tmp_path / "work", Pruning())
    assert_only_matrices_changed(dense, loaded, kept_as_they_were=True)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(result.files[0])
    assert "model.layers.0.mlp.experts.3.down_proj.weight" in {r.name for r in result.records}


def test_names_that_the_checkpoint_lacks_are_refused(tmp_path):
    from edgeprune.models.stored import stored_tensors

    model = load_model(open_checkpoint(str(make("llama", tmp_path / "model"))))
    with pytest.raises(InputError, match=r"stores model\.x under an unknown name"):
        stored_tensors(model, {"model.x": torch.zeros(1)}, {"model.y"})


@torch.no_grad()
def test_transposed_layers_get_the_masks_of_linear_ones(tmp_path, float32):
    folder = make("gpt2", tmp_path / "model")
    streams = streams_of(4, 32, vocabulary=128)
    pruning = Pruning(fusion=FusionRule("general"))
    result = prune_uniformly(open_checkpoint(str(folder)), streams, pruning, tmp_path / "work")
    model = load_model(open_checkpoint(str(folder)))
    for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        conv = model.transformer.h[0].get_submodule(layer)
        seen = []
        hook = conv.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(args[0]))
        model(streams["general"].tokens)
        hook.remove()
        rows = seen[0].flatten(0, -2)
        linear = nn.Linear(*conv.weight.shape)
        linear.weight.copy_(conv.weight.T)
        scores = linear.weight.abs() * rows.square().mean(0).sqrt()
        best = scores.topk(scores.shape[1] // 2).indices
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
        pruned = result.weights().read(f"transformer.h.0.{layer}.weight")
        assert ((pruned.T != 0) == mask).float().mean() > 0.999, layer


class Moe:
    """The first block of a tiny model of experts on its way through the engine.

    Args:
        folder: where to make the model.
        name: its architecture.
    """

    def __init__(self, folder: Path, name: str):
        self.model = load_model(open_checkpoint(str(make(name, folder))))
        stream = streams_of(8, 32, vocabulary=128)["task"]
        self.runner = BlockRunner(self.model, {"task": stream}, torch.device("cpu"))
        self.runner._batch = 2  # four batches
        self.states = torch.empty(8, 32, 64)
        self.runner.embed("task", self.states)
        self.weights = token_weights(stream, Pruning(answer_weight=4.0), self.model)
        self.block = self.runner.load(0)
        self.experts = self.block.mlp.experts
        self.matrices = weight_matrices(self.block)

    def statistics(self):
        return self.runner.statistics(
            0, self.block, self.matrices, self.states, self.weights, gram=False
        )

    @torch.no_grad()
    def choices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of the experts of every token, and the experts the router sends it to."""
        calls = []
        hook = self.block.mlp.gate.register_forward_hook(
            lambda _module, args, output: calls.append((args[0].reshape(-1, 64), output[2]))
        )
        for part in self.states.split(2):
            self.runner.call(0, 2).run(self.block, part)
        hook.remove()
        return torch.cat([c[0] for c in calls]), torch.cat([c[1] for c in calls])

    @torch.no_grad()
    def by_hand(self, name: str, expert: int, hidden, chosen) -> tuple[torch.Tensor, float]:
        """Second moment and weight of an expert's tokens, one by one; all if ``chosen`` is None."""
        total, weight = 0, 0.0
        for token, (state, its) in enumerate(zip(hidden, self.weights.flatten(), strict=True)):
            if chosen is not None and expert not in chosen[token]:
                continue
            inner = self.experts.down_proj.shape[2]
            both = self.experts.gate_up_proj[expert] @ state
            last = self.experts.act_fn(both[:inner]) * both[inner:]
            total = total + its * (last if name == "down_proj" else state).double().square()
            weight += its.item()
        return total / weight, weight


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_are_judged_by_the_tokens_routed_to_them(tmp_path, monkeypatch, float32, name):
    monkeypatch.setattr(sys.modules["edgeprune.engine.hooks"], "EXPERT_FLOOR", 1)
    moe = Moe(tmp_path / "model", name)
    seen = moe.statistics()
    hidden, chosen = moe.choices()
    for expert in range(4):
        assert 0 < (chosen == expert).any(-1).sum() < len(hidden)
        for part in ("gate_proj", "up_proj", "down_proj"):
            statistics = seen[f"mlp.experts.{expert}.{part}.weight"]
            moment, weight = moe.by_hand(part, expert, hidden, chosen)
            assert statistics.tokens == pytest.approx(weight)
            torch.testing.assert_close(statistics.second_moment, moment.float())
    experts = [seen[f"mlp.experts.0.{part}_proj.weight"] for part in ("gate", "up")]
    assert experts[0] is experts[1]


def test_experts_with_too_few_tokens_are_given_all(tmp_path, monkeypatch, float32):
    monkeypatch.setattr(sys.modules["edgeprune.engine.hooks"], "EXPERT_FLOOR", 100)
    moe = Moe(tmp_path / "model", "mixtral")
    # Batches of 62 tokens that count: 0 in all, 1 in two, 2 in one, not the first, 3 in none.
    plan = [[0, 1], [0, 2], [0, 1], [0, 0]]
    passes = []

    def route(hidden):
        experts = torch.tensor(plan[len(passes) % 4])
        passes.append(len(hidden))
        return None, torch.full((len(hidden), 2), 0.5), experts.expand(len(hidden), 2)

    monkeypatch.setattr(moe.block.mlp.gate, "forward", route)
    seen = moe.statistics()
    assert passes == [64] * 8  # a second pass for 2 and 3
    hidden, chosen = moe.choices()
    for expert, expected in enumerate([chosen, chosen, None, None]):
        for part in ("up_proj", "down_proj"):
            statistics = seen[f"mlp.experts.{expert}.{part}.weight"]
            moment, weight = moe.by_hand(part, expert, hidden, expected)
            assert statistics.tokens == pytest.approx(weight)
            torch.testing.assert_close(statistics.second_moment, moment.float())
    shared = {id(seen[f"mlp.experts.{e}.{p}_proj.weight"]) for e in (2, 3) for p in ("gate", "up")}
    assert len(shared) == 1  # what all tokens say of the input is said once


def test_a_short_stream_is_a_floor_of_its_own(tmp_path, float32):
    moe = Moe(tmp_path / "model", "mixtral")  # 248 tokens that count, fewer than the floor
    seen = moe.statistics()
    assert seen["mlp.experts.0.up_proj.weight"] is seen["mlp.experts.3.up_proj.weight"]
    assert seen["mlp.experts.0.up_proj.weight"].tokens == moe.weights.sum()


def test_routers_and_gates_of_shared_experts_stay_dense(tmp_path):
    model = load_model(open_checkpoint(str(make("qwen2_moe", tmp_path / "model"))))
    names = weight_matrices(model.model.layers[1])
    assert "mlp.shared_expert.gate_proj.weight" in names
    assert not [n for n in names if n.startswith(("mlp.gate.", "mlp.shared_expert_gate."))]


def test_experts_of_another_layout_are_refused():
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssDecoderLayer

    block = GptOssDecoderLayer(GptOssConfig(**_COMMON, num_local_experts=4, head_dim=16), 0)
    with pytest.raises(InputError, match=r"GptOssDecoderLayer .*mlp\.experts\.gate_up_proj"):
        weight_matrices(block)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8)])
def test_matrices_of_unknown_layers_are_refused(shape):
    block = nn.Module()
    block.known = nn.Linear(8, 8)
    block.mixer = nn.Module()
    block.mixer.taps = nn.Parameter(torch.zeros(shape))
    with pytest.raises(InputError, match=r"layers of unknown type \(mixer\.taps\)"):
        weight_matrices(block)


class Halving(nn.Module):
    """A block that hands a layer some of its tokens without saying which."""

    def __init__(self):
        super().__init__()
        self.some = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.taken = 4

    def forward(self, hidden):
        return self.some(hidden[:, : self.taken])


def test_layers_that_see_unknown_tokens_or_none_are_refused():
    from edgeprune.engine.hooks import StatisticsHooks

    block = Halving()
    with (
        StatisticsHooks(block, weight_matrices(block), gram=False) as gatherer,
        pytest.raises(InputError, match=r"4 of 8 tokens to its weight some"),
    ):
        gatherer.run(lambda: block(torch.randn(1, 8, 8)), torch.ones(1, 8))
    block.taken = 8
    with StatisticsHooks(block, weight_matrices(block), gram=False) as gatherer:
        gatherer.run(lambda: block(torch.randn(1, 8, 8)), torch.ones(1, 8))
    with pytest.raises(InputError, match=r"The weight never\.weight received no calibration input"):
        gatherer.statistics()
