"""The sequential loop against a whole-model reference, and its restarts."""

import itertools
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from edgeprune.engine import Pruning
from edgeprune.engine.device import pick_device
from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.fisher import gather_fisher
from edgeprune.engine.store import BlockStore, PrunedTensors
from edgeprune.engine.token_weights import stream_weights, token_weights
from edgeprune.models import open_checkpoint
from edgeprune.models.blocks import decoder_blocks, watch, weight_matrices
from edgeprune.models.loading import load_model
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.statistics import Accumulator
from edgeprune.support.errors import InputError, MachineError
from edgeprune.support.progress import Quiet
from tests.support.models import make_small
from tests.support.plans import prune_uniformly
from tests.support.streams import small_streams


@torch.no_grad()
def reference_wanda(checkpoint, streams, sparsity: float) -> dict[str, torch.Tensor]:
    """Block by block on the whole model: full forward passes with hooks, nothing captured."""
    model = load_model(checkpoint, torch.float32)
    name, blocks = decoder_blocks(model)
    pruned = {}
    for index, block in enumerate(blocks):
        matrices = weight_matrices(block)
        sums = {n: Accumulator(m.read(block).shape[1], torch.device("cpu")) for n, m in
                matrices.items()}  # fmt: skip

        def add(name, inputs, _tokens, sums=sums):
            rows = inputs.flatten(0, 1)
            sums[name].add(rows, torch.ones(len(rows)))

        hooks = watch(block, matrices, add)
        model(streams["general"].tokens, use_cache=False)
        for hook in hooks:
            hook.remove()
        for n, matrix in matrices.items():
            weight = matrix.read(block)
            scores = METHODS["wanda"].score(weight, sums[n].statistics())
            weight *= Budget(UNSTRUCTURED, round(sparsity * weight.numel())).keep(scores)
            pruned[f"{name}.{index}.{n}"] = weight.clone()
    return pruned


def test_sequential_wanda_equals_whole_model_passes(small_folder, tmp_path, float32):
    checkpoint = open_checkpoint(str(small_folder))
    streams = small_streams()
    pruning = Pruning(fusion=FusionRule("general"))
    result = prune_uniformly(checkpoint, streams, pruning, tmp_path)
    expected = reference_wanda(checkpoint, streams, 0.5)
    weights = result.weights()
    assert {record.name for record in result.records} == set(expected)
    for name, tensor in expected.items():
        same = (weights.read(name) != 0) == (tensor != 0)
        assert same.float().mean() > 0.999, name  # sums in another order may flip a tie
    for record in result.records:
        assert record.sparsity == 0.5
        assert record.nonzeros == int((weights.read(record.name) != 0).sum())


def test_kept_weights_and_everything_else_are_untouched(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))
    result = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path)
    before, after = checkpoint.weights(), result.weights()
    assert set(before.names()) == set(after.names())
    pruned = {record.name for record in result.records}
    for name in before.names():
        old, new = before.read(name), after.read(name)
        assert torch.equal(new, old if name not in pruned else torch.where(new != 0, old, new))


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize(
    ("method", "fusion"),
    [*((name, "mix") for name in METHODS), *itertools.product(
        ("wanda", "alps_fast", "wanda_pp"), ("general", "task", "fused")
    )],
)  # fmt: skip
def test_every_combination_meets_its_pattern(small_folder, tmp_path, fusion, pattern, method):
    checkpoint = open_checkpoint(str(small_folder))
    pruning = Pruning(method, FusionRule(fusion))
    result = prune_uniformly(checkpoint, small_streams(2), pruning, tmp_path, pattern=pattern)
    for record in result.records:
        mask = result.weights().read(record.name) != 0
        assert 2 * mask.sum() == mask.numel()
        if METHODS[method].sees != "gram" or pattern == "2:4":
            assert (mask.sum(1) == mask.shape[1] // 2).all()
        if pattern == "2:4":
            assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_streams_change_what_is_pruned_unless_the_method_sees_no_data(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))

    def masks(method: str, fusion: str):
        folder = tmp_path / f"{method}-{fusion}"
        result = prune_uniformly(
            checkpoint, small_streams(), Pruning(method, FusionRule(fusion)), folder
        )
        return torch.cat([(result.weights().read(r.name) != 0).flatten() for r in result.records])

    assert not torch.equal(masks("wanda", "general"), masks("wanda", "task"))
    assert torch.equal(masks("magnitude", "general"), masks("magnitude", "fused"))


def test_the_attention_sink_is_left_out_only_when_asked():
    stream = small_streams()["task"]
    assert (token_weights(stream, Pruning(), None) == 1).all()
    weights = token_weights(stream, Pruning(sink_positions=1), None)
    assert (weights[:, 0] == 0).all()
    assert (weights[:, 1:] == 1).all()


def test_positions_that_predict_answers_weigh_more():
    stream = small_streams()["task"]
    weights = token_weights(stream, Pruning(answer_weight=4.0), None)
    assert torch.equal(weights[:, 1:-1] == 4, stream.answers[:, 2:])
    assert torch.equal(weights[:, 1:-1] == 1, ~stream.answers[:, 2:])


def test_tokens_the_dense_model_finds_hard_can_weigh_less(small_folder):
    model = load_model(open_checkpoint(str(small_folder)))
    stream = small_streams()["general"]  # random tokens: all of them surprise
    weights = token_weights(stream, Pruning(high_perplexity_weight=0.25), model)
    assert (weights[:, 1:-1] == 0.25).all()


class Elsewhere(TorchFunctionMode):
    """A CPU that says where it was asked to move tensors: ``went`` holds what they were."""

    def __init__(self):
        super().__init__()
        self.went: list[torch.Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and torch.device("cuda") in args[1:]:
            self.went.append(args[0])
            return args[0].clone()
        return func(*args, **kwargs or {})


@pytest.fixture
def cuda_walk(small_folder) -> BlockRunner:
    model = load_model(open_checkpoint(str(small_folder)), torch.float32)
    runner = BlockRunner(model, small_streams(2),
                torch.device("cpu"))  # fmt: skip
    runner.device = torch.device("cuda")
    return runner


def addresses(model) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def test_fisher_runs_on_the_device_that_was_asked_for(cuda_walk, tmp_path):
    runner, here = cuda_walk, addresses(cuda_walk.model)
    same = (runner.model, runner.blocks, runner.streams)
    rest = (torch.float32, tmp_path / "there", Quiet())
    with Elsewhere() as elsewhere:
        there = gather_fisher(*same, torch.device("cuda"), *rest)
    moved = {tensor.data_ptr() for tensor in elsewhere.went}
    assert moved >= here  # all weights and buffers
    assert moved >= {stream.tokens.data_ptr() for stream in runner.streams.values()}
    assert addresses(runner.model) == here  # and they are back where they were
    plain = gather_fisher(*same, torch.device("cpu"), torch.float32, tmp_path / "here", Quiet())
    name = f"{runner.prefix}.0.self_attn.q_proj.weight"
    assert torch.equal(there.read("task", name), plain.read("task", name))


def test_perplexities_are_found_on_the_device_that_was_asked_for(cuda_walk):
    here = addresses(cuda_walk.model)
    with Elsewhere() as elsewhere:
        stream_weights(cuda_walk, Pruning())
        assert not elsewhere.went  # nothing has to run
        weights = stream_weights(cuda_walk, Pruning(high_perplexity_weight=0.25))
    assert {tensor.data_ptr() for tensor in elsewhere.went} >= here
    assert addresses(cuda_walk.model) == here
    assert (weights["general"][:, 1:-1] == 0.25).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fisher_and_perplexities_are_alike_on_a_gpu(cuda_walk, tmp_path):
    runner = cuda_walk
    found = {
        place: gather_fisher(runner.model, runner.blocks, runner.streams, torch.device(place),
                             torch.float32, tmp_path / place, Quiet())
        for place in ("cpu", "cuda")
    }  # fmt: skip
    name = f"{runner.prefix}.0.self_attn.q_proj.weight"
    one, other = (fisher.read("task", name) for fisher in found.values())
    assert torch.allclose(one, other, rtol=0.05, atol=1e-3)
    weights = stream_weights(runner, Pruning(high_perplexity_weight=0.25))
    assert weights["general"].device.type == "cpu"


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_pruned_only_when_asked(tmp_path, tied):
    folder = make_small(tmp_path / "model", tie_word_embeddings=tied)
    checkpoint = open_checkpoint(str(folder))
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    plain = prune_uniformly(checkpoint, small_streams(2), Pruning(), tmp_path / "a")
    assert all(".layers." in record.name for record in plain.records)
    asked = prune_uniformly(checkpoint, small_streams(2), Pruning(head=True), tmp_path / "b")
    assert asked.records[-1].name == name
    assert asked.records[-1].sparsity == 0.5


def test_statistics_of_the_dense_model_serve_every_sparsity(small_folder, tmp_path, monkeypatch):
    checkpoint, kept = open_checkpoint(str(small_folder)), tmp_path / "dense.safetensors"
    behind = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "a")
    same = {"dense_statistics": kept}
    first = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "b", **same)
    # The first block sees the same either way, the second does not.
    assert behind.files[0].read_bytes() == first.files[0].read_bytes()
    assert behind.files[1].read_bytes() != first.files[1].read_bytes()
    runner = sys.modules["edgeprune.engine.runner"]
    monkeypatch.setattr(runner.BlockRunner, "statistics", lambda *_: pytest.fail("gathered again"))
    again = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "c", **same)
    assert again.files[1].read_bytes() == first.files[1].read_bytes()
    less = {"sparsity": 0.3, **same}
    other = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "d", **less)
    assert {round(record.sparsity, 2) for record in other.records} == {0.3}


def test_a_finished_run_is_only_read(small_folder, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(str(small_folder))
    first = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path)
    assert not list(tmp_path.glob("hidden-*"))
    module = sys.modules["edgeprune.engine.prune"]
    monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("the model was loaded"))
    second = prune_uniformly(checkpoint, {}, Pruning(), tmp_path)
    assert second.records == first.records


def test_an_interrupted_run_goes_on_and_gives_the_same_bits(small_folder, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(str(small_folder))
    whole = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "whole")
    kept = BlockStore.keep_hidden

    def keep_then_stop(self, index, shapes):
        kept(self, index, shapes)
        if index == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(BlockStore, "keep_hidden", keep_then_stop)
    with pytest.raises(KeyboardInterrupt):
        prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "cut")
    monkeypatch.setattr(BlockStore, "keep_hidden", kept)
    first = (tmp_path / "cut" / "block-0000.safetensors").stat().st_mtime_ns
    cut = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "cut")
    assert (tmp_path / "cut" / "block-0000.safetensors").stat().st_mtime_ns == first
    for one, other in zip(whole.files, cut.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_finished_run_that_lost_a_block_is_done_again(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))
    first = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path)
    good = first.files[1].read_bytes()
    for damage in (b"", good[:100]):
        first.files[1].write_bytes(damage)
        again = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path)
        assert again.files[1].read_bytes() == good
    first.files[1].unlink()
    again = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path)
    assert again.files[1].read_bytes() == good


def test_sequences_longer_than_the_context_are_refused(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))
    with pytest.raises(InputError, match="context of 512"):
        prune_uniformly(checkpoint, small_streams(1, 600), Pruning(), tmp_path)


def test_damaged_hidden_states_begin_anew(small_folder, tmp_path):
    checkpoint = open_checkpoint(str(small_folder))
    whole = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "a")
    store = BlockStore(tmp_path / "b")
    store.save_block(0, PrunedTensors({"x": torch.zeros(1)}, [], {}))
    for stream in ("general", "task"):
        (tmp_path / "b" / f"hidden-0000-{stream}.bin").write_bytes(b"cut short")
    again = prune_uniformly(checkpoint, small_streams(), Pruning(), tmp_path / "b")
    assert again.files[0].read_bytes() == whole.files[0].read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    folder = make_small(tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*NaN"):
        prune_uniformly(open_checkpoint(str(folder)), small_streams(2), Pruning(), tmp_path / "w")


def test_a_pattern_that_does_not_divide_names_the_tensor(small_folder, tmp_path):
    with pytest.raises(InputError, match=r"q_proj.*pattern 2:7"):
        prune_uniformly(
            open_checkpoint(str(small_folder)), small_streams(2), Pruning(), tmp_path, pattern="2:7"
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_that_is_not_there():
    with pytest.raises(MachineError, match="no CUDA device"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"
