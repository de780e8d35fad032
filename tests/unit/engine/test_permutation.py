"""Channel permutation inside feed-forward networks: more is kept, nothing else changes."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.models.feed_forward import feed_forwards
from edgeprune.models.loading import load_model
from edgeprune.pruning.fusion import FusionRule
from tests.support.plans import prune_uniformly
from tests.support.streams import small_streams


def gpt2(folder):
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=512, n_positions=64)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases too: they must move with their channels
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_reordering_alone_changes_no_logit(small_folder, tmp_path, kind):
    folder = small_folder if kind == "llama" else gpt2(tmp_path / "gpt2")
    model = load_model(open_checkpoint(str(folder)), torch.float32)
    tokens = small_streams(2, 16)["general"].tokens
    before = model(tokens).logits
    generator = torch.Generator().manual_seed(0)
    for block in decoder_blocks(model)[1]:
        matrices = weight_matrices(block)
        networks = feed_forwards(matrices)
        assert len(networks) == 1
        width = matrices[networks[0].reader].read(block).shape[1]
        networks[0].reorder(block, matrices, torch.randperm(width, generator=generator))
    torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["wanda", "alps_fast", "wanda_pp"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_permuted_pruning_keeps_the_pattern_and_more_of_the_weights(
    small_folder, tmp_path, kind, method
):
    folder = small_folder if kind == "llama" else gpt2(tmp_path / "gpt2")
    checkpoint = open_checkpoint(str(folder))
    streams = small_streams(4, 32)
    results = {}
    for permute in (False, True):
        pruning = Pruning(method, FusionRule("mix"), permute=permute)
        folder = tmp_path / str(permute)
        result = prune_uniformly(checkpoint, streams, pruning, folder, pattern="2:4")
        weights = result.weights()
        assert all(record.sparsity == 0.5 for record in result.records)
        last = [r for r in result.records if "down_proj" in r.name or "mlp.c_proj" in r.name]
        assert len(last) == 2
        results[permute] = sum(weights.read(r.name).square().sum().item() for r in last)
    if method == "wanda":  # others move or weigh weights by more than their size
        assert results[True] > results[False]
