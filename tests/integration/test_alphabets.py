"""Few codes of a stock type: chosen, written, packed, multiplied by."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.formats import forms
from edgeprune.formats.codes import CODES, block_bytes
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.gguf.packed import PackedFile, pack
from edgeprune.formats.metadata import read_storage
from edgeprune.models import open_checkpoint
from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import Budget, parse
from edgeprune.planning.types import narrow
from edgeprune.pruning.gram import Gram
from edgeprune.quantization.gptq import round_to_grid
from edgeprune.quantization.joint import pruned_for
from edgeprune.quantization.scales import codes, one_by_one
from edgeprune.recipe import Recipe
from edgeprune.runtime import library
from edgeprune.runtime.llamacpp import probe
from edgeprune.support.errors import CheckFailed, UsageError
from exporters.base import StorageRequest
from exporters.gguf import encode
from exporters.gguf.ggml import quantize
from exporters.gguf.grids import on_grid
from exporters.gguf.types import TYPES
from runtime_tests.runners.llamacpp import LlamaCpp
from tests.support.exporting import dense_model, export_gguf
from tests.support.gguf import logits_of

NARROW = sorted(narrow("q4_0", "q8_0"))
KERNELS = ["q4_0:2", "q4_0:3", "q4_0:3/64", "q4_0:1+mask", "q4_0:2+mask", "q4_0:2+mask/128"]


def ggml(kind):
    return GGMLQuantizationType[kind.base]


def weights(shape=(48, 256), zeros=0.0, seed=0):
    chance = np.random.default_rng(seed)
    values = chance.standard_normal(shape).astype(np.float32)
    values[chance.random(shape) < zeros] = 0
    return torch.from_numpy(values)


def signed_codes(data, kind):
    _, found = CODES[kind].split(data.reshape(-1, block_bytes(kind)[1]))
    return (found - np.uint8(CODES[kind].zero)).view(np.int8)


def test_names_are_bits():
    assert TYPES["q4_0:3"].alphabet == Grid(-4, 3)
    assert TYPES["q4_0:2+mask/64"].alphabet == Grid(-2, 2, 64, masked=True)
    bits = {
        name: kind.alphabet.bits_per_weight(0.5) for name, kind in narrow("q4_0", "q8_0").items()
    }
    assert bits["q4_0:3+mask"] == 3.0
    assert bits["q4_0:2+mask/64"] == 2.25
    assert bits["q4_0:1+mask/64"] == 1.75
    assert bits["q8_0:6"] == 4.5  # half of it is zeros
    assert TYPES["q8_0:6"].alphabet.bits_per_weight() == 6.5


@given(st.sampled_from(NARROW), st.floats(0, 0.9), st.integers(0, 1 << 30))
def test_rounded_weights_stay_in_their_alphabet(name, zeros, seed):
    kind, weight = TYPES[name], weights(zeros=zeros, seed=seed)
    grid = kind.alphabet
    importance = torch.rand(256, 1) * (weight != 0).T
    rounded, scales = one_by_one(weight, importance, grid)
    data = on_grid(rounded.numpy(), scales.numpy(), ggml(kind), grid)
    found = signed_codes(data, kind.base)
    assert found.min() >= grid.low
    assert found.max() <= grid.high
    kept = (weight != 0).numpy().reshape(found.shape)
    assert not found[~kept].any()
    if grid.masked:
        assert (found[kept] != 0).all()
    form, _ = forms.find(kind.base, data.reshape(-1), 256)
    assert form.bits <= grid.bits
    assert form.group >= grid.block // 32


@pytest.mark.parametrize("name", ["q4_0:3", "q4_0:2/64", "q4_0:2+mask/64", "q8_0:5"])
def test_gptq_beats_rounding_each_weight_by_itself(name):
    torch.manual_seed(0)
    grid, weight = TYPES[name].alphabet, weights((64, 256), zeros=0.3)
    x = torch.randn(2048, 256) @ torch.randn(256, 256) / 16
    gram = Gram(x.T @ x / len(x))
    importance = gram.norms.square()[:, None] * (weight != 0).T
    alone = one_by_one(weight, importance, grid)[0] - weight
    fed = round_to_grid(weight, gram, grid)[0] - weight
    lost = [((one @ gram.matrix) * one).sum() for one in (fed, alone)]
    assert lost[0] < 0.9 * lost[1]


@pytest.mark.parametrize(("name", "most"), [("q4_0:1+mask/64", 1.0), ("q4_0:2+mask/64", 0.9)])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_mask_chosen_with_its_codes_loses_less(name, most, pattern):
    torch.manual_seed(0)
    grid, weight = TYPES[name].alphabet, weights((64, 256))
    x = torch.randn(2048, 256) @ torch.randn(256, 256) / 16
    gram, budget = Gram(x.T @ x / len(x)), Budget(parse(pattern), weight.numel() // 2)
    largest = torch.where(budget.keep(weight.abs()), weight, 0)

    def lost(one):
        change = round_to_grid(one, gram, grid)[0] - weight
        return ((change @ gram.matrix) * change).sum()

    chosen = pruned_for(weight, largest, gram, grid, budget)
    assert torch.equal((chosen == 0).sum(), torch.tensor(budget.zeros))
    assert parse(pattern).holds((chosen != 0).numpy())
    assert lost(chosen) <= most * lost(largest)
    assert torch.equal(pruned_for(weight, chosen, gram, grid, budget), chosen)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_scales_of_few_codes_clip_what_pays(bits):
    """The best of a fine search is hardly better."""
    grid = Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - (bits > 1), masked=bits == 1)
    weight = weights((400, 32))
    importance = torch.ones(32, 1)
    found = (one_by_one(weight, importance.expand(32, 400), grid)[0] - weight).square().sum(1)
    best = torch.full((400,), torch.inf)
    for share in torch.linspace(0.05, 1.5, 400):
        for sign in (-1, 1):
            scale = (sign * share * weight.abs().amax(1))[:, None]
            error = (codes(grid, weight, scale) * scale - weight).square().sum(1)
            best = torch.minimum(best, error)
    assert found.mean() < 1.03 * best.mean()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kernel", library.kernels())
def test_kernels_multiply_by_narrow_codes(name, kernel):
    kind, weight = TYPES[name], weights((50, 256), zeros=0.5 if "mask" in name else 0.1)
    grid = kind.alphabet
    rounded, scales = one_by_one(weight, torch.ones(256, 1) * (weight != 0).T, grid)
    data = on_grid(rounded.numpy(), scales.numpy(), ggml(kind), grid).reshape(-1)
    form, _ = forms.find(kind.base, data, 256)
    shape = library.shape_of(kind.base, (50, 256), form)
    library.use(kernel)
    try:
        layout = (shape.layout, shape.bits, shape.group)
        packed = library.PackedMatrix(kind.base, data, (50, 256), *layout)
        x = np.random.default_rng(0).standard_normal((9, 256)).astype(np.float32)
        wide = library.PackedMatrix(kind.base, data, (50, 256), library.DENSE)
        assert np.allclose(packed.times(x, 2), wide.times(x), atol=1e-4)
        assert np.allclose(packed.times(x[:1]), wide.times(x[:1]), atol=1e-4)
        assert (packed.unpack() == data).all()
        if shape.layout == library.NARROW:
            assert all((packed.row(row) == wide.row(row)).all() for row in range(50))
        assert packed.packed.nbytes < wide.packed.nbytes
    finally:
        library.use()


def test_a_layout_that_has_not_all_codes_is_refused():
    data = on_grid(np.full((16, 32), 7.0, np.float32), np.ones((16, 1)), ggml(TYPES["q4_0"]))
    for layout, bits in ((library.NARROW, 3), (library.MASKED, 2)):
        with pytest.raises(ValueError, match="has not all codes"):
            library.PackedMatrix("Q4_0", data.reshape(-1), (16, 32), layout, bits)


@pytest.mark.parametrize("name", ["q4_0:3", "q4_0:2/64", "q8_0:5"])
def test_a_dense_model_in_few_codes_is_a_stock_file(tiny_folder, tmp_path, name):
    model, path = dense_model(open_checkpoint(str(tiny_folder))), tmp_path / "m.gguf"
    export_gguf(model, StorageRequest(name), path)
    file = open_gguf(path)
    base, alphabet = TYPES[name].base, TYPES[name].alphabet
    blocks = [t for t in file.tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    assert set(read_storage(file)) == {tensor.name for tensor in blocks}
    for tensor in blocks:
        assert tensor.type.name == base
        found = signed_codes(tensor.data.reshape(-1), base)
        assert alphabet.low <= found.min() <= found.max() <= alphabet.high
    facts = pack(path, tmp_path / "m.packed.gguf")
    assert facts["tensors"] >= len(blocks)
    narrower = PackedFile(tmp_path / "m.packed.gguf")
    assert {str(narrower.form(tensor.name)) for tensor in blocks} <= {
        f"{bits}{scale}" for bits in (1, 2, 3, 4, 5) for scale in ("", "/64", "/128")
    }
    plain, packed = (LlamaCpp(p, 1) for p in (path, tmp_path / "m.packed.gguf"))
    ids = list(range(100, 140))
    one, other = logits_of(plain, ids), logits_of(packed, ids)
    assert np.linalg.norm(one - other) < probe.TOLERANCE * np.linalg.norm(one)
    if base == "Q4_0":
        head = library.dense_gains("Q8_0")
        assert packed.info()["sparse"]["tensors"] == len(blocks) + head


def test_codes_beyond_the_alphabet_are_found(tiny_folder, tmp_path, monkeypatch):
    model = dense_model(open_checkpoint(str(tiny_folder)))
    monkeypatch.setattr(
        encode, "_nearest", lambda values, kind, _grid, _weights: quantize(values, kind)
    )
    with pytest.raises(CheckFailed, match="not of its alphabet 3"):
        export_gguf(model, StorageRequest("q4_0:3"), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_embedding_and_head_have_types_of_their_own(tiny_folder, tmp_path):
    model, path = dense_model(open_checkpoint(str(tiny_folder))), tmp_path / "m.gguf"
    export_gguf(model, StorageRequest("q8_0", embedding="q4_0"), path)
    kinds = {tensor.name: tensor.type.name for tensor in open_gguf(path).tensors}
    assert kinds["token_embd.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert "output.weight" not in kinds  # this model's head is its embedding


def test_a_tied_table_has_one_type():
    wanted = StorageRequest("q8_0", embedding="q4_0", head="q5_0")
    with pytest.raises(UsageError, match="is its output head too"):
        wanted.of_vocabulary(embedding=True, head=True)
    assert StorageRequest("q8_0", head="q5_0").of_vocabulary(True, True) == "q5_0"
    assert not StorageRequest("q8_0", head="q5_0").of_vocabulary(True, False)


def test_recipes_check_alphabets():
    with pytest.raises(UsageError, match="leaves zeros to a mask"):
        Recipe.of({"artifact.type": "q4_0:2+mask", "pruning.sparsity": 0}, task="medqa")
    with pytest.raises(UsageError, match="q4_0:3"):
        Recipe.of({"artifact.embedding_type": "q4_0:33"}, task="medqa")
    assert Recipe.of({"artifact.head_type": "Q5_0"}, task="medqa").artifact.head_type == "q5_0"
