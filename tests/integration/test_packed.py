"""Packed files: bit for bit, at any offset, in stock llama.cpp, and safe to open."""

import random
import subprocess
import tracemalloc

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fuzz
from edgeprune.formats import forms, packing
from edgeprune.formats.codes import CODES, block_bytes, nonzero
from edgeprune.formats.gguf.packed import PackedFile, is_packed, pack, unpack
from edgeprune.formats.inspection import inspect
from edgeprune.runtime import enable
from edgeprune.runtime.llamacpp import loading, stream
from edgeprune.runtime.llamacpp.chat import Chat
from edgeprune.support.errors import CheckFailed, InputError, UsageError
from exporters.base import StorageRequest
from exporters.gguf.ggml import quantize
from runtime_tests.runners.llamacpp import LlamaCpp
from tests.support.exporting import Counter, export_gguf
from tests.support.gguf import logits_of, metadata
from tests.support.processes import EDGEPRUNE

T = GGMLQuantizationType


def packed_whole(kind, data):
    """Without its zeros alone, whatever codes it uses."""
    return packing.pack(kind, data, forms.whole(kind))


def sparse(shape=(64, 512), zeros=0.5, seed=0):
    chance = np.random.default_rng(seed)
    values = chance.standard_normal(shape).astype(np.float32)
    values[chance.random(shape) < zeros] = 0
    return values


@given(st.sampled_from(sorted(CODES)), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_bytes_come_apart_and_together_again(kind, blocks, chance):
    per_block, size = block_bytes(kind)
    data = np.frombuffer(chance.randbytes(blocks * size), np.uint8).reshape(blocks, size)
    side, codes = CODES[kind].split(data)
    assert codes.shape == (blocks, per_block)
    assert (CODES[kind].join(side, codes) == data).all()
    assert codes.size == 0 or int(codes.max()) < 2 ** CODES[kind].bits


@pytest.mark.parametrize("kind", sorted(CODES))
def test_codes_of_zero_are_the_zeros_that_dequantising_gives(kind):
    data = quantize(sparse(), T[kind]).view(np.uint8)
    _, codes = CODES[kind].split(data.reshape(-1, block_bytes(kind)[1]))
    values = quants.dequantize(data, T[kind]).reshape(codes.shape)
    assert (values[codes == CODES[kind].zero] == 0).all()
    assert (codes == CODES[kind].zero).mean() >= 0.49


@given(st.sampled_from(sorted(CODES)), st.floats(0, 1), st.integers(1, 5), st.integers(0, 1 << 30))
def test_packing_is_undone_exactly_and_has_the_size_that_was_said(kind, zeros, rows, seed):
    data = quantize(sparse((rows, 256), zeros, seed), T[kind]).view(np.uint8).reshape(-1)
    form, size = forms.find(kind, data, 256)
    small = packing.pack(kind, data, form)
    assert len(small) == size <= packed_whole(kind, data).size
    assert (packing.unpack(kind, small, rows * 256, form) == data).all()
    assert forms.parse(str(form), kind) == form


@given(
    st.sampled_from(["Q4_0", "Q8_0"]), st.integers(1, 7), st.booleans(), st.sampled_from([1, 2, 4]),
    st.floats(0, 1), st.integers(1, 4), st.integers(0, 1 << 30),
)  # fmt: skip
def test_few_codes_take_the_bits_that_they_need(kind, bits, masked, group, zeros, rows, seed):
    bits = min(bits, CODES[kind].bits - 1)
    half, chance = 2 ** (bits - 1), np.random.default_rng(seed)
    codes = chance.integers(-half, half + masked, (rows * 8, 32))
    codes[chance.random(codes.shape) < zeros] = 0
    scales = chance.standard_normal((rows * 8 // group, 1)).astype(np.float16).repeat(group, axis=0)
    stored = (codes + CODES[kind].zero).astype(np.uint8)
    data = CODES[kind].join(scales.view(np.uint8), stored).reshape(-1)
    form, size = forms.find(kind, data, 256)
    asked = forms.Form(bits, masked, group)
    assert size <= asked.size(kind, codes.size, np.count_nonzero(codes))
    for one in (form, asked):
        small = packing.pack(kind, data, one)
        assert (packing.unpack(kind, small, codes.size, one) == data).all()


def test_forms_read_as_recipes_spell_them():
    assert str(forms.Form(3, masked=False, group=2)) == "3/64"
    assert forms.parse("2+mask", "Q4_0") == forms.Form(2, masked=True, group=1)
    assert forms.parse("32+mask", "F32") == forms.whole("F32")
    assert forms.parse("2+2:4/64", "Q4_0") == forms.Form(2, group=2, two_of_four=True)
    for text in ("", "9", "4", "2+mask/32", "3/96", "4+mask/64"):
        with pytest.raises(ValueError, match="Q4_0 has no form"):
            forms.parse(text, "Q4_0")


@pytest.mark.parametrize(
    ("kind", "zeros", "most"), [("Q8_0", 0.5, 0.67), ("Q8_0", 0.7, 0.48), ("Q4_0", 0.5, 0.78)]
)
def test_sizes_that_were_promised(kind, zeros, most):
    values = np.zeros((64, 1024), np.float32)
    kept = round(1024 * (1 - zeros))
    values[:, :kept] = 1 + np.abs(sparse((64, kept), 0))
    data = quantize(values, T[kind]).reshape(-1)
    assert len(packed_whole(kind, data)) <= most * len(data)


def test_two_of_four_is_no_larger_than_unstructured():
    values = sparse((64, 1024), 0)
    groups = values.reshape(-1, 4)
    groups[np.arange(len(groups))[:, None], np.abs(groups).argsort(1)[:, :2]] = 0
    data = quantize(values, T.Q8_0).reshape(-1)
    shuffled = sparse((64, 1024), 0.5)
    assert len(packed_whole("Q8_0", data)) <= 1.01 * len(
        packed_whole("Q8_0", quantize(shuffled, T.Q8_0).reshape(-1))
    )


@pytest.fixture(scope="module")
def files(pruned_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    plain, small = folder / "m.gguf", folder / "m.packed.gguf"
    export_gguf(pruned_tiny, StorageRequest("q8_0"), plain, metadata(), "t", Counter())
    sizes = pack(plain, small)
    return plain, small, sizes


def test_the_original_comes_back_bit_for_bit(files, tmp_path):
    plain, small, sizes = files
    assert sizes["packed_tensor_bytes"] <= 0.67 * sizes["tensor_bytes"]
    assert sizes["packed_bytes"] == small.stat().st_size < plain.stat().st_size
    unpack(small, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == plain.read_bytes()


def test_any_part_of_the_original_can_be_read(files):
    plain, small, _ = files
    data, file, chance = plain.read_bytes(), PackedFile(small), random.Random(0)
    for _ in range(300):
        offset, count = chance.randrange(len(data) + 9), chance.randrange(1 << 17)
        assert file.read(offset, count) == data[offset : offset + count]


def test_inspect_shows_the_same_of_both(files):
    plain, small, _ = files
    assert inspect(small) == inspect(plain)


@pytest.mark.parametrize("streams", [True, False])
def test_stock_llama_cpp_runs_it_with_the_same_logits(files, monkeypatch, streams, capfd):
    plain, small, _ = files
    if streams and not stream.available():
        pytest.skip("this C library makes no streams: loading through one was not checked")
    monkeypatch.setattr(stream, "available", lambda: streams)
    ids = list(range(40, 72))
    expected = logits_of(LlamaCpp(plain, 2), ids)
    assert (logits_of(LlamaCpp(small, 2), ids) == expected).all()
    assert ("is unpacked to" in capfd.readouterr().err) is not streams


def test_the_high_level_class_opens_it_too(files):
    import llama_cpp

    _, small, _ = files
    enable()
    enable()
    model = llama_cpp.Llama(str(small), n_ctx=64, verbose=False)
    assert model.create_completion("Hello", max_tokens=2)["choices"]
    assert Chat(small, 64)


def test_a_stream_hands_python_errors_on(files, monkeypatch):
    _, small, _ = files

    def fail(_self, _offset, _count, without=()):
        raise InputError("broken on the way")

    monkeypatch.setattr(PackedFile, "read", fail)
    from llama_cpp import llama_cpp as api

    with pytest.raises(InputError, match="broken on the way"):
        loading.load_model(small, api.llama_model_default_params())


def test_what_cannot_be_packed_is_refused(files, tmp_path):
    _, small, _ = files
    with pytest.raises(UsageError, match="already packed"):
        pack(small, tmp_path / "x")
    writer = GGUFWriter(tmp_path / "dense.gguf", "llama")
    writer.add_tensor("x", np.ones((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="Packing would not make any tensor of"):
        pack(tmp_path / "dense.gguf", tmp_path / "x")
    with pytest.raises(InputError, match="not a packed GGUF file"):
        PackedFile(tmp_path / "dense.gguf")
    assert not (tmp_path / "x").exists()


def test_bytes_between_tensors_fail_the_packing(files, tmp_path):
    plain, _, _ = files
    data = bytearray(plain.read_bytes())
    data += b"\x01" * 64  # behind the last tensor
    (tmp_path / "odd.gguf").write_bytes(data)
    with pytest.raises(CheckFailed, match="cannot be restored"):
        pack(tmp_path / "odd.gguf", tmp_path / "x")


def test_a_changed_byte_is_found_on_unpacking(files, tmp_path):
    _, small, _ = files
    data = bytearray(small.read_bytes())
    data[-5000] ^= 1
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        unpack(tmp_path / "bad.gguf", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_lies_about_sizes_ask_for_no_memory(files, tmp_path):
    """A header that claims a giant original must not be believed."""
    _, small, _ = files
    data = small.read_bytes()
    size = PackedFile(small).size
    lie = data.replace(size.to_bytes(8, "little"), (1 << 40).to_bytes(8, "little"), 1)
    assert lie != data
    (tmp_path / "lie.gguf").write_bytes(lie)
    tracemalloc.start()
    with pytest.raises(InputError, match="it declares"):
        unpack(tmp_path / "lie.gguf", tmp_path / "out.gguf")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("seeds", "read"),
    [(fuzz.gguf_seeds, fuzz.read_gguf_file), (fuzz.onnx_seeds, fuzz.read_onnx_file)],
    ids=["gguf", "onnx"],
)
def test_mutated_files_never_crash(seeds, read, tmp_path):
    """A small part of what benchmarks/fuzz.py does."""
    good = [path.read_bytes() for path in seeds(tmp_path)]
    ending = "gguf" if seeds is fuzz.gguf_seeds else "onnx"
    case, taken = tmp_path / f"case.{ending}", 0
    for seed in range(1000, 1300):
        case.write_bytes(fuzz.mutate(random.Random(seed), good))
        taken += read(case)
    assert 0 < taken < 300


def test_pack_and_unpack_on_the_command_line(files, tmp_path):
    plain, _, _ = files
    source = tmp_path / "model.gguf"
    source.write_bytes(plain.read_bytes())

    def run(*args):
        command = [EDGEPRUNE, *map(str, args)]
        return subprocess.run(command, check=False, text=True, capture_output=True)

    done = run("pack", source)
    assert done.returncode == 0, done.stderr
    assert "Verified: it unpacks to the same bytes" in done.stdout
    assert is_packed(tmp_path / "model.packed.gguf")
    refused = run("unpack", tmp_path / "model.packed.gguf")
    assert refused.returncode == 2
    assert "already exists" in refused.stderr
    source.unlink()
    assert run("unpack", tmp_path / "model.packed.gguf").returncode == 0
    assert source.read_bytes() == plain.read_bytes()
    assert run("pack", tmp_path / "absent.gguf").returncode == 3


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@given(st.integers(1, 5), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_zeros_are_found_in_bytes_as_dequantisation_finds_them(kind, blocks, zeros, seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal((3, 32 * blocks)).astype(np.float32)
    values[random.random(values.shape) < zeros] = 0
    values[random.random(3) < 0.3] = 0  # whole blocks: their scale is zero
    values[values == 0] *= random.choice([-1, 1])  # of either sign
    data = quants.quantize(values, T[kind]).view(np.uint8)
    found = nonzero(kind, data.reshape(-1))
    expected = quants.dequantize(data, T[kind]) != 0
    assert (found.reshape(expected.shape) == expected).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_what_is_not_finite_is_found_in_bytes(kind):
    data = quants.quantize(np.ones((1, 32), np.float32), T[kind]).view(np.uint8)
    data = data.reshape(-1)
    data[: 4 if kind == "F32" else 2] = 0xFF
    with pytest.raises(ValueError, match="finite"):
        nonzero(kind, data)


def test_types_whose_bytes_do_not_tell_are_left_to_dequantisation():
    assert nonzero("Q6_K", np.zeros(210, np.uint8)) is None
