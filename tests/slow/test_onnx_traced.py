"""Architectures that have no builder of their own: traced graphs against transformers."""

import numpy as np
import pytest
import torch

from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.models import open_checkpoint
from exporters.base import Model, StorageRequest
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.exporting import dense_model, grids_of, plan_as
from tests.support.onnx import IDS, METADATA, close, save
from tests.support.traced import KINDS, random_model


@pytest.mark.parametrize("kind", KINDS)
def test_traced_graphs_give_transformers_logits(kind, real_checkpoint, tmp_path):
    model = random_model(kind, real_checkpoint, tmp_path / "hf")
    source = dense_model(open_checkpoint(str(tmp_path / "hf")))
    plan_as("onnx", source, StorageRequest("fp32"))
    path = save(source, tmp_path / "out" / "model.onnx", type="fp32")
    runner = OnnxRuntime(path, 1)
    for length in (len(IDS), 3):  # neither is that of the traced example
        with torch.no_grad():
            expected = model(torch.tensor([IDS[:length]])).logits[0].numpy()
        assert close(runner._run(IDS[:length], 0), expected, 2e-5)
    runner._run(IDS[:6], 0)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    assert close(runner._run(IDS[6:7], 6), expected[6:7], 2e-5)
    assert close(runner._run(IDS[7:], 7), expected[7:], 2e-5)


def test_traced_graphs_store_every_type_and_keep_zeros(real_checkpoint, tmp_path):
    random_model("olmo2", real_checkpoint, tmp_path / "hf", tie_word_embeddings=True)
    dense = dense_model(open_checkpoint(str(tmp_path / "hf")))
    names = frozenset(n for n in dense.weights.names() if "proj" in n)
    from safetensors.torch import save_file

    from edgeprune.formats.weights import Weights

    tensors = {name: dense.weights.read(name) for name in dense.weights.names()}
    for name in names:
        tensors[name][:, ::2] = 0
    save_file(tensors, tmp_path / "pruned.safetensors")
    model = Model(dense.folder, Weights([tmp_path / "pruned.safetensors"]), names)
    assert set(grids_of("onnx", model, StorageRequest("int8"))) >= names
    expected = None
    for kind, share in (("fp32", 0), ("fp16", 1e-2), ("int8", 0.1), ("int4", 0.6)):
        path = save(model, tmp_path / kind / "model.onnx", METADATA, type=kind)
        stored = {tensor.name: tensor for tensor in OnnxFile(path).tensors}
        for name in names:
            values = stored[name].values()
            assert stored[name].type == kind.upper()
            assert not values[:, ::2].any()
            assert np.count_nonzero(values[:, 1::2]) > 0.8 * values[:, 1::2].size
        runner = OnnxRuntime(path, 1)
        logits = runner._run(IDS, 0)
        if expected is None:
            expected = logits
        assert close(logits, expected, share) or kind == "fp32"
        if kind != "fp32":
            assert runner.info()["sparse"]["tensors"] == len(names)
