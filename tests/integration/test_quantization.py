"""Types, mixes and rounding against ggml, gguf's numpy quantiser and stock llama.cpp."""

import ctypes

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeprune import Recipe
from edgeprune.engine import Pruning, prune
from edgeprune.formats.weights import Weights
from edgeprune.models import open_checkpoint
from edgeprune.pipeline import planner
from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import UNSTRUCTURED, Budget
from edgeprune.pruning.gram import Gram
from edgeprune.pruning.updates.least_squares import refit
from edgeprune.quantization.gptq import compensated, round_to_grid, rounded
from edgeprune.quantization.scales import codes, fit
from edgeprune.support.errors import CheckFailed, UsageError
from edgeprune.support.progress import Quiet
from exporters.base import Model, StorageRequest
from exporters.gguf import ggml
from exporters.gguf.grids import GRIDS, on_grid
from exporters.gguf.types import TYPES
from tests.support.exporting import Counter, dense_model, export_gguf, plan_as
from tests.support.gguf import metadata
from tests.support.models import make_tiny
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

T = GGMLQuantizationType
NUMPY_TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"]


def pruned_matrix(rows: int = 64, columns: int = 256) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return np.where(np.abs(values) > np.median(np.abs(values)), values, 0)


@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_ggml_and_the_numpy_quantiser_agree(name):
    values = pruned_matrix()
    found, expected = ggml.quantize(values, T[name]), quants.quantize(values, T[name])
    # Ties are rounded differently here and there; the values are what counts.
    a, b = quants.dequantize(found, T[name]), quants.dequantize(expected, T[name])
    assert found.nbytes == expected.nbytes
    assert np.abs(a - b).max() <= np.abs(values).max() / 8
    assert (a == b).mean() > 0.98


def test_without_llama_cpp_the_numpy_quantiser_serves(monkeypatch):
    monkeypatch.setattr(ggml, "find", lambda: None)
    values = pruned_matrix()
    assert (ggml.quantize(values, T.Q8_0) == quants.quantize(values, T.Q8_0)).all()
    with pytest.raises(Exception, match="comes with llama-cpp-python"):
        ggml.quantize(values, T.Q6_K)


@pytest.mark.parametrize("name", [n for n, kind in TYPES.items() if not kind.mix])
def test_the_table_says_which_types_keep_zeros(name):
    values = pruned_matrix(256, 512)
    kind = T[TYPES[name].base]
    back = quants.dequantize(ggml.quantize(values, kind), kind)
    kept = float((back[values == 0] == 0).mean())
    assert kept == 1 if TYPES[name].keeps_zeros else kept < 0.1


def test_every_lossy_type_names_one_that_keeps_zeros():
    for kind in TYPES.values():
        assert kind.keeps_zeros or TYPES[kind.instead].keeps_zeros


def test_a_type_that_loses_zeros_is_refused_with_the_nearest_that_keeps_them():
    with pytest.raises(UsageError, match="'z4_m' is the nearest type that keeps them"):
        Recipe.of(task="medqa", type="Q4_K_M")
    with pytest.raises(UsageError, match="'q4_0' is the nearest"):
        Recipe.of({"artifact.type_map": {"ffn_down": "q4_k"}}, task="medqa")
    dense = Recipe.of(task="medqa", type="q4_k_m", sparsity=0)
    assert dense.artifact.type == "q4_k_m"
    lossy = Recipe.of(task="medqa", type="q4_k_m", allow_lossy_zeros=True)
    assert lossy.pruning.sparsity == 0.5


def test_a_type_map_is_checked():
    with pytest.raises(UsageError, match="Unknown type 'q9'"):
        Recipe.of({"artifact.type_map": {"ffn": "q9"}}, task="medqa")
    with pytest.raises(UsageError, match="not a regular expression"):
        Recipe.of({"artifact.type_map": {"(": "q8_0"}}, task="medqa")


@pytest.fixture(scope="module")
def wide(real_checkpoint, tmp_path_factory):
    """A model whose rows divide into blocks of 256, with enough blocks for every rule."""
    folder = make_tiny(
        real_checkpoint, tmp_path_factory.mktemp("wide") / "m", hidden_size=256,
        intermediate_size=512, num_hidden_layers=16,
    )  # fmt: skip
    return open_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["q4_k_m", "q4_k_s", "q5_k_m", "q3_k_m", "q6_k", "q8_0"])
def test_mixes_give_every_tensor_the_type_that_llama_quantize_gives(wide, tmp_path, name):
    import llama_cpp
    from llama_cpp import llama_cpp as api

    source, theirs, ours = (tmp_path / f"{n}.gguf" for n in ("f32", "theirs", "ours"))
    export_gguf(dense_model(wide), StorageRequest("f32"), source, None, "t", Counter())
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    failed = api.llama_model_quantize(
        str(source).encode(), str(theirs).encode(), ctypes.byref(params)
    )
    assert not failed
    export_gguf(dense_model(wide), StorageRequest(name), ours, None, "t", Counter())
    expected = {t.name: t for t in GGUFReader(theirs).tensors}
    found = {t.name: t for t in GGUFReader(ours).tensors}
    assert {n: t.tensor_type.name for n, t in found.items()} == {
        n: t.tensor_type.name for n, t in expected.items()
    }
    assert all((t.data == expected[n].data).all() for n, t in found.items())


@pytest.mark.parametrize("name", [n for n, k in TYPES.items() if k.mix and k.keeps_zeros])
def test_our_mixes_are_as_large_as_the_ones_they_stand_for(wide, tmp_path, name):
    sizes = {}
    for type_name in (name, TYPES[name].mix.lower()):
        artifact = export_gguf(
            dense_model(wide), StorageRequest(type_name, lossy_zeros=True), tmp_path / "m.gguf",
            None,
            "t", Counter(),
        )  # fmt: skip
        sizes[type_name] = sum(t.bytes for t in artifact.tensors)
    ours, theirs = sizes.values()
    assert ours <= theirs
    assert ours > 0.93 * theirs  # MXFP4 has a quarter of a bit less


def test_overrides_win_over_the_type(wide, tmp_path):
    storage = StorageRequest("q8_0", ((r"blk\.0\.ffn_down", "q6_k"), ("attn_v", "f16")))
    artifact = export_gguf(dense_model(wide), storage, tmp_path / "m.gguf", None, "t", Counter())
    types = {t.name: t.type for t in artifact.tensors}
    assert types["blk.0.ffn_down.weight"] == "Q6_K"
    assert types["blk.1.ffn_down.weight"] == "Q8_0"
    assert types["blk.7.attn_v.weight"] == "F16"


@pytest.fixture(scope="module")
def pruned_wide(wide, tmp_path_factory):
    found = prune_uniformly(wide, streams_of(4), Pruning(), tmp_path_factory.mktemp("w"))
    names = frozenset(record.name for record in found.records)
    return Model(wide.folder, found.weights(), names)


def test_lost_zeros_are_counted_where_they_are_allowed(pruned_wide, tmp_path):
    path = tmp_path / "m.gguf"
    with pytest.raises(CheckFailed, match="no longer zero in Q4_K"):
        export_gguf(pruned_wide, StorageRequest("q4_k_m"), path, metadata(), "t", Counter())
    found = export_gguf(
        pruned_wide, StorageRequest("q4_k_m", lossy_zeros=True), path, metadata(), "t", Counter()
    )
    read = {t.name: t for t in GGUFReader(path).tensors}
    for tensor in found.tensors:
        values = read[tensor.name]
        counted = np.count_nonzero(quants.dequantize(values.data, values.tensor_type))
        assert tensor.nonzeros == counted
        if tensor.type == "Q4_K":
            assert tensor.lost_zeros > 0.9 * 0.5 * np.prod(tensor.shape)
        else:
            assert tensor.lost_zeros == 0


finite = st.floats(-100, 100, width=32)


@given(
    st.sampled_from(sorted(GRIDS)),
    arrays.arrays(np.float32, (3, 64), elements=st.integers(-127, 127)),
    arrays.arrays(np.float16, (3, 2), elements=st.floats(-3, 3, width=16)),
)
def test_what_stands_on_a_grid_comes_back_from_the_bytes(name, whole, scales):
    grid = GRIDS[name]
    whole = whole.clip(grid.low, grid.high)
    wide_scales = scales.astype(np.float32)
    values = (whole.reshape(3, 2, 32) * wide_scales[..., None]).reshape(3, 64)
    back = quants.dequantize(on_grid(values, wide_scales, T[name]), T[name])
    assert (back == values).all()


@given(
    arrays.arrays(np.float32, (32, 3), elements=finite), st.sampled_from(sorted(GRIDS)),
    st.integers(-6, 1),
)  # fmt: skip
def test_scales_are_half_numbers_and_never_worse_than_the_plain_ones(weight, name, exponent):
    weight = (weight * 10.0**exponent).astype(np.float32)
    grid, values = GRIDS[name], torch.from_numpy(weight)
    scales = fit(grid, values, (values != 0).float())
    assert (scales.half().float() == scales).all()
    assert (scales[values.abs().amax(0) == 0] == 0).all()
    on = (codes(grid, values, scales) * scales).T.numpy()
    ours = quants.dequantize(on_grid(on, scales[:, None].numpy(), T[name]), T[name])
    plain = quants.dequantize(quants.quantize(weight.T.copy(), T[name]), T[name])
    error = [np.square(q - weight.T, dtype=np.float64).sum(1) for q in (ours, plain)]
    assert (error[0] <= error[1] * 1.0001 + 1e-12).all()


def layer(columns: int = 192):
    torch.manual_seed(0)
    inputs = torch.randn(2000, columns) @ torch.randn(columns, columns) * torch.rand(columns)
    gram = Gram(inputs.T @ inputs / 2000)
    weight = torch.randn(96, columns)
    return gram, weight


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75])
def test_error_feedback_keeps_zeros_and_beats_rounding_each_weight(name, sparsity):
    gram, weight = layer()
    mask = Budget(UNSTRUCTURED, round(sparsity * weight.numel())).keep(weight.abs())
    weight = refit(weight, mask, gram)
    rounded, scales = round_to_grid(weight, gram, GRIDS[name])
    assert (rounded[~mask] == 0).all()
    bytes_ = on_grid(rounded.numpy(), scales.numpy(), T[name])
    assert (quants.dequantize(bytes_, T[name]) == rounded.numpy()).all()
    plain = torch.from_numpy(quants.dequantize(ggml.quantize(weight.numpy(), T[name]), T[name]))

    def losses(q):
        change = q - weight
        return ((change @ gram.matrix) * change).sum(1)

    assert losses(rounded).sum() < 0.75 * losses(plain).sum()


def test_feedback_is_gptq_written_out_naively():
    """ArXiv 2210.17323, algorithm 1, one row and one column at a time, with fixed scales."""
    gram, weight = layer(64)
    weight = weight[:4].double()
    mask = weight.abs() > 0.5
    weight = weight * mask
    grid = GRIDS["Q4_0"]
    factor = gram.inverse_factor
    importance = gram.norms.square()[:, None] * mask.T
    found = compensated(weight.float(), factor, importance, grid)
    ours, scales = found.weight, found.scales
    expected = weight.clone()
    for row in range(4):
        current = weight[row].clone()
        for j in range(64):
            step = scales[row, j // 32].double()
            q = torch.clamp(torch.round(current[j] / step), -8, 7) * step if mask[row, j] else 0
            error = (current[j] - q) / factor[j, j].double()
            current[j:] -= error * factor[j, j:].double()
            expected[row, j] = q
    assert (ours.double() - expected).abs().max() < 1e-3


@pytest.mark.parametrize("grid", [Grid(-8, 7), Grid(-4, 3, block=64), Grid(-2, 2, masked=True)])
def test_weights_before_rounding_round_to_what_gptq_chose(grid):
    gram, weight = layer(128)
    weight = weight * (weight.abs() > 0.5)
    found = rounded(weight, gram, grid)
    each = found.scales.repeat_interleave(grid.block, dim=1)
    again = codes(grid, found.before, each) * each * (weight != 0)
    assert torch.allclose(again, found.weight, atol=1e-6)
    assert not found.before[weight == 0].any()
    assert (found.before - found.weight).abs().mean() > 0.1 * each.abs().mean()  # not in the middle


def test_a_build_rounds_with_compensation_and_the_file_holds_what_the_engine_chose(
    real_checkpoint, tmp_path
):
    folder = make_tiny(real_checkpoint, tmp_path / "m", hidden_size=96, intermediate_size=192)
    checkpoint = open_checkpoint(str(folder))
    storage = StorageRequest("q4_0")
    rows = list(plan_as("gguf", dense_model(checkpoint), storage).tensors)
    plan = planner.by_rule(Recipe.of({"data.task": "none"}), rows)
    result = prune(
        checkpoint, streams_of(4), Pruning("alps_fast"), plan, tmp_path / "w", Quiet(), "cpu"
    )
    names = frozenset(record.name for record in result.records)
    model = Model(
        checkpoint.folder, result.weights(), names, calibration=Weights(result.calibration)
    )
    artifact = export_gguf(model, storage, tmp_path / "m.gguf", metadata(), "t", Counter())
    rows = {t.source: t.name for t in artifact.tensors}
    read = {t.name: t for t in GGUFReader(tmp_path / "m.gguf").tensors}
    for record in result.records:
        if "q_proj" in record.name or "k_proj" in record.name:
            continue  # rows are in another order
        found = read[rows[record.name]]
        values = quants.dequantize(found.data, found.tensor_type)
        assert (values == result.weights().read(record.name).numpy()).all()
        assert np.count_nonzero(values) == record.nonzeros - record.rounded_to_zero


def test_block_sizes_are_those_of_the_format():
    assert all(GGML_QUANT_SIZES[T[name]][0] == grid.block for name, grid in GRIDS.items())


def test_an_importance_matrix_is_used_and_gives_llama_cpp_the_same_bytes(wide, tmp_path):
    """Our imatrix file, read back and handed to llama.cpp's quantiser."""
    import llama_cpp
    from llama_cpp import llama_cpp as api

    found = prune_uniformly(wide, streams_of(4), Pruning("wanda"), tmp_path / "w")
    names = frozenset(record.name for record in found.records)
    model = Model(wide.folder, found.weights(), names, calibration=Weights(found.calibration))
    source, theirs, ours = (tmp_path / f"{n}.gguf" for n in ("f32", "theirs", "ours"))
    export_gguf(model, StorageRequest("f32"), source, metadata(), "t", Counter())
    export_gguf(model, StorageRequest("q4_0"), ours, metadata(), "t", Counter())
    matrix = GGUFReader(tmp_path / "ours.imatrix.gguf")
    assert matrix.fields["general.type"].contents() == "imatrix"
    assert matrix.fields["imatrix.datasets"].contents() == ["t"]
    seen = {t.name: t.data for t in matrix.tensors}
    assert len(seen) == 2 * len(names)
    sums = {n.removesuffix(".in_sum2"): seen[n] for n in seen if n.endswith(".in_sum2")}
    means = {n: (s / seen[f"{n}.counts"]).reshape(-1).copy() for n, s in sums.items()}
    entries = (api.llama_model_imatrix_data * (len(means) + 1))()
    pointer = ctypes.POINTER(ctypes.c_float)
    for entry, (name, mean) in zip(entries, means.items(), strict=False):
        entry.name, entry.size = name.encode(), mean.size
        entry.data = mean.ctypes.data_as(pointer)
    params = api.llama_model_quantize_default_params()
    params.ftype, params.imatrix = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, entries
    assert not api.llama_model_quantize(
        str(source).encode(), str(theirs).encode(), ctypes.byref(params)
    )
    expected = {t.name: t for t in GGUFReader(theirs).tensors}
    plain = ggml.quantize(found.weights().read(sorted(names)[0]).numpy(), T.Q4_0)
    compared = differs_from_plain = 0
    for tensor in GGUFReader(ours).tensors:
        if tensor.name in means and expected[tensor.name].tensor_type == T.Q4_0:
            assert (tensor.data == expected[tensor.name].data).all(), tensor.name
            compared += 1
            same_shape = tensor.data.shape == plain.shape
            differs_from_plain += not (same_shape and (tensor.data == plain).all())
    assert compared > 100
    assert differs_from_plain > 100
