"""ONNX's own sparse tensors: `edgeprune pack --storage coo`."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeprune.formats.onnx import coo as onnx_coo
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.support.errors import InputError, UsageError
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.onnx import IDS
from tests.support.processes import run


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_listed_weights_are_the_same_in_onnxruntime(kind, exported, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_SPARSE", "0")
    path = exported[kind]
    done = run("pack", str(path), "--storage", "coo", "--json")
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    listed = path.with_name("model.coo.onnx")
    assert sizes["file"] == str(listed)
    assert sizes["tensors"] == 14
    itemsize = {"fp32": 4, "fp16": 2}[kind]
    share = sizes["packed_tensor_bytes"] / sizes["tensor_bytes"]
    assert share == pytest.approx(0.5 * (itemsize + 8) / itemsize, abs=0.01)
    onnx.checker.check_model(str(listed))
    stock = OnnxRuntime(path, 1)._run(IDS, 0)
    np.testing.assert_array_equal(OnnxRuntime(listed, 1)._run(IDS, 0), stock)
    monkeypatch.delenv("EDGEPRUNE_SPARSE")
    np.testing.assert_array_equal(OnnxRuntime(listed, 1)._run(IDS, 0), stock)
    said = run("pack", str(path), "--storage", "coo")
    assert "makes these weights dense" in said.stderr
    counted = run("inspect", str(listed), "--json")
    assert counted.returncode == 0
    plain = {t.name: t.values() for t in OnnxFile(path).tensors}
    for tensor in OnnxFile(listed).tensors:
        np.testing.assert_array_equal(tensor.values(), plain[tensor.name])


def test_what_cannot_be_listed_is_refused(exported, tmp_path):
    with pytest.raises(UsageError, match="no pruned float matrices"):
        onnx_coo.pack(exported["int8"], tmp_path / "x.onnx")
    assert run("pack", "model.gguf", "--storage", "coo").returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "lie",
    [
        lambda sparse: sparse.dims.__setitem__(0, -1),
        lambda sparse: sparse.dims.__setitem__(0, 1),
        lambda sparse: sparse.indices.dims.__setitem__(0, 3),
        lambda sparse: setattr(sparse.indices, "raw_data", b"\xff" * len(sparse.indices.raw_data)),
        lambda sparse: sparse.dims.append(2),
    ],
)
def test_lies_about_listed_weights_are_refused(lie, exported, tmp_path):
    onnx_coo.pack(exported["fp32"], tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    lie(model.graph.sparse_initializer[0])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    def read():
        return [tensor.values() for tensor in OnnxFile(tmp_path / "m.onnx").tensors]

    with pytest.raises(InputError, match="damaged"):
        read()


def test_onnxruntime_reads_them_as_any_tool_would(exported, tmp_path):
    onnx_coo.pack(exported["fp16"], tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert session.get_outputs()[0].name == "logits"
