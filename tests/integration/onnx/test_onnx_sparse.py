"""Sparse products inside onnxruntime, beside its own."""

import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.runtime import library
from edgeprune.runtime.onnxruntime.loading import open_session
from edgeprune.support.errors import MachineError
from edgeprune.support.files import cache_folder
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.onnx import IDS, METADATA, save
from tests.support.paths import NATIVE_TESTS, RUNTIME
from tests.support.programs import need

# Both sides round activations to 8 bits; float weights are multiplied by as they are.
TOLERANCE = {"int8": 0.02, "int4": 0.02, "fp16": 1e-5, "fp32": 1e-5}


def logits(runner: OnnxRuntime) -> list[np.ndarray]:
    """Of a prompt and of one more token."""
    return [runner._run(IDS, 0).copy(), runner._run([3], len(IDS)).copy()]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel", library.kernels())
@pytest.mark.parametrize("kind", TOLERANCE)
def test_products_without_zeros_give_the_same_logits(
    exported, kind, kernel, threads, monkeypatch
):  # fmt: skip
    path = exported[kind]
    monkeypatch.setenv("EDGEPRUNE_SPARSE", "0")
    stock = OnnxRuntime(path, threads)
    assert stock.info()["sparse"] is None
    assert "EDGEPRUNE_SPARSE=0" in stock.info()["sparse_off"]
    monkeypatch.delenv("EDGEPRUNE_SPARSE")
    library.use(kernel)
    try:
        sparse = OnnxRuntime(path, threads)
        placed = sparse.info()["sparse"]
        if not library.break_even(
            {"int8": "Q8_0", "int4": "Q4_0", "fp16": "F16", "fp32": "F32"}[kind]
        ):
            assert placed is None  # these kernels leave the type to onnxruntime
            assert "no pruned weight is sparse enough" in sparse.info()["sparse_off"]
            return
        assert placed["tensors"] == placed["claimed"] == 14
        assert placed["kernel"] == kernel
        assert placed["packed_bytes"] < placed["dense_bytes"]
        for found, expected in zip(logits(sparse), logits(stock), strict=True):
            assert difference(found, expected) < TOLERANCE[kind]
    finally:
        library.use()


@pytest.mark.parametrize("kind", ["int4:3", "int4:2", "int4:2+mask"])
def test_few_codes_are_multiplied_by_as_they_are(pruned, tmp_path, kind, monkeypatch):
    path = save(pruned, tmp_path / "m" / "model.onnx", METADATA, type=kind)
    sparse = OnnxRuntime(path, 2)
    placed = sparse.info()["sparse"]
    assert placed["tensors"] == placed["claimed"] == 14
    assert placed["packed_bytes"] < 0.85 * placed["dense_bytes"]
    monkeypatch.setenv("EDGEPRUNE_SPARSE", "0")
    for found, expected in zip(logits(sparse), logits(OnnxRuntime(path, 2)), strict=True):
        assert difference(found, expected) < 2 * TOLERANCE["int4"]  # of few codes, each counts


def rewritten(path, folder, change):
    """A copy of a model whose graph or weights were changed."""
    shutil.copytree(path.parent, folder)
    model = onnx.load(folder / path.name)
    change(model)
    (folder / f"{path.name}.data").unlink()
    onnx.save(
        model, folder / path.name, save_as_external_data=True, location=f"{path.name}.data",
        size_threshold=1024,
    )  # fmt: skip
    return folder / path.name


def test_scales_that_are_no_half_numbers_stay_with_onnxruntime(exported, tmp_path):
    scaled = []

    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name.endswith("q_proj.weight.scales"):
                exact = numpy_helper.to_array(tensor) * np.float32(1.0001)
                tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
                scaled.append(tensor.name)

    path = rewritten(exported["int8"], tmp_path / "changed", change)
    placed = OnnxRuntime(path, 2).info()["sparse"]
    assert len(scaled) == 2
    assert placed["claimed"] == 14
    assert placed["tensors"] == 12


def test_dense_weights_stay_with_onnxruntime(exported, tmp_path):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name.endswith("down_proj.weight"):
                filled = numpy_helper.to_array(tensor).copy()
                filled[filled == 128] = 1
                properties = [(p.key, p.value) for p in tensor.metadata_props]
                tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
                for key, value in properties:
                    tensor.metadata_props.add(key=key, value=value)

    path = rewritten(exported["int8"], tmp_path / "changed", change)
    assert OnnxRuntime(path, 2).info()["sparse"]["tensors"] == 12


def test_what_is_not_edgeprunes_opens_as_it_stands(exported, tmp_path):
    def change(model):
        for tensor in model.graph.initializer:
            del tensor.metadata_props[:]

    path = rewritten(exported["int8"], tmp_path / "changed", change)
    info = OnnxRuntime(path, 2).info()
    assert info["sparse"] is None
    assert not info["sparse_off"]


def test_without_the_kernel_library_models_run_dense(exported, monkeypatch):
    def missing():
        raise MachineError("The kernel library is not there.")

    monkeypatch.setattr(library, "library", missing)
    info = OnnxRuntime(exported["int8"], 2).info()
    assert info["sparse"] is None
    assert "is not there" in info["sparse_off"]


def one_product(width: int, **attributes: int) -> onnx.ModelProto:
    settings = {"type": library.TYPES["Q8_0"], "layout": 0, "bits": 0, "group": 1} | {
        "rows": 48,
        "cols": 64,
        "threads": 2,
        **attributes,
    }
    node = helper.make_node("SparseMatMul", ["x", "w"], ["y"], domain="edgeprune", **settings)
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", width]),
         helper.make_tensor_value_info("w", TensorProto.UINT8, ["bytes"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("edgeprune", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library.LIBRARY))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_the_operator_takes_any_batch():
    from tests.support.kernels import matrix, rounded

    data, values = matrix("Q8_0", 48, 64, density=0.5)
    packed = library.PackedMatrix("Q8_0", data, (48, 64)).packed
    runs = session(one_product(64))
    for shape in ((1, 1, 64), (3, 5, 64), (1, 0, 64)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        (found,) = runs.run(None, {"x": x, "w": packed})
        expected = rounded(x.reshape(-1, 64)).reshape(shape) @ values.T if x.size else x[..., :48]
        assert found.shape == (*shape[:2], 48)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_operator_refuses_what_does_not_fit():
    with pytest.raises(Exception, match="no such matrix"):
        session(one_product(64, cols=63))
    with pytest.raises(Exception, match="no such matrix"):
        session(one_product(64, threads=0))
    with pytest.raises(Exception, match="another width"):
        session(one_product(32)).run(
            None, {"x": np.zeros((1, 1, 32), np.float32), "w": np.zeros(9, np.uint8)}
        )


def test_sessions_share_the_operator(exported):
    """Each registers it anew; the first may be gone before the last is made."""
    first = open_session(exported["int8"], onnxruntime.SessionOptions())
    second = open_session(exported["int4"], onnxruntime.SessionOptions())
    del first
    third = open_session(exported["int8"], onnxruntime.SessionOptions())
    assert second.sparse
    assert third.sparse


def onnxruntime_headers():
    """Debian's ``libonnxruntime-dev``, fetched once."""
    folder = cache_folder() / "sources" / "libonnxruntime-dev"
    if not folder.exists():
        packages = folder.parent / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["apt-get", "download", "libonnxruntime-dev"],
            cwd=packages, check=False, capture_output=True, text=True,
        )  # fmt: skip
        found = sorted(packages.glob("libonnxruntime-dev_1.21*.deb"))
        if not found:
            pytest.skip(f"not fetched, so this was not checked: {done.stderr[-200:]}")
        subprocess.run(["dpkg-deb", "-x", found[-1], folder], check=True)
    return folder / "usr" / "include" / "onnxruntime"


def test_the_interface_is_onnxruntimes():
    need("g++", "apt-get", "dpkg-deb")
    check = NATIVE_TESTS / "check_onnxruntime_abi.cpp"
    command = [
        "g++",
        "-std=c++17",
        "-fsyntax-only",
        f"-I{RUNTIME / 'onnxruntime'}",
        f"-I{onnxruntime_headers()}",
    ]
    done = subprocess.run([*command, check], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gpu_providers_are_measured_where_they_run(exported, monkeypatch):
    """Here the CPU stands in for a GPU; and a provider that onnxruntime leaves out is an error."""
    from edgeprune.support.progress import Quiet
    from runtime_tests import Plan, run_on_gpus
    from runtime_tests.accuracy import Item
    from runtime_tests.devices import CPU, ONNXRUNTIME, Gpu

    items = [Item("1", "Two and two are", (" four", " five"), 0)]
    plan = Plan(items, "acc", 8, "text", 0, 16, 4, 1, 2, 1)
    found = run_on_gpus(exported["fp16"], plan, Quiet().stage, [Gpu("CPU", str)])
    assert found["CPU"]["nats_per_answer_token"]["value"] > 0
    assert found["CPU"]["decode"]["median"] > 0
    monkeypatch.setattr("shutil.which", lambda name: None)
    cuda, tensorrt, directml = (gpu.why_not() for gpu in ONNXRUNTIME)
    assert cuda == tensorrt == "no GPU"
    assert "onnxruntime-directml" in directml
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU.ort])
    assert ["onnxruntime-gpu" in gpu.why_not() for gpu in ONNXRUNTIME] == [True, True, False]
    with pytest.raises(RuntimeError, match="did not use TensorRT"):
        OnnxRuntime(exported["fp16"], 1, "TensorRT")
