"""The kernels beside a float64 reference, packing beside numpy's."""

import math
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.formats import forms, packing
from edgeprune.formats.codes import CODES, block_bytes
from edgeprune.runtime import library
from edgeprune.runtime.library import DENSE, SPARSE, TYPES, PackedMatrix
from edgeprune.support.errors import MachineError
from tests.support.kernels import BLOCK, TILE, matrix, rounded


@pytest.fixture(params=library.kernels())
def kernel(request):
    """Every kernel that this processor can run, in turn."""
    library.use(request.param)
    yield request.param
    library.use()


def expected(kind, values, x):
    return (rounded(x) if kind in {"Q8_0", "Q4_0"} else x.astype(np.float64)) @ values.T


def by_numpy(kind, data, rows, cols):
    """The packed bytes as layout.h describes them, one weight after another."""
    per_block, size = block_bytes(kind)
    codes = CODES[kind]
    side, all_codes = codes.split(data.reshape(-1, size).view(np.uint8))
    wide = per_block == 1
    tiles = -(-rows // TILE)
    grid = np.full((tiles * TILE, cols), codes.zero, all_codes.dtype)
    grid[:rows] = all_codes.reshape(rows, cols)
    if kind == "Q8_0":
        grid ^= 0x80
    zero = {"Q8_0": 128, "Q4_0": 8}.get(kind, 0)
    scales = np.zeros((tiles * TILE, cols // BLOCK, 2), np.uint8)
    if not wide:
        scales[:rows] = side.reshape(rows, cols // BLOCK, 2)
    sides, values, ends = b"", [], [0]
    for tile in range(tiles):
        part = grid[tile * TILE : (tile + 1) * TILE]
        streams = [[], []]
        for block in range(cols // BLOCK):
            own = part[:, block * BLOCK : (block + 1) * BLOCK]
            if wide:
                order = own.T.reshape(-1)
                kept = (order << 1) != 0
            else:
                sides += scales[tile * TILE : (tile + 1) * TILE, block].tobytes()
                order = own.reshape(TILE, 8, 4).transpose(1, 0, 2).reshape(-1)
                kept = order != zero
            sides += np.packbits(kept, bitorder="little").tobytes()
            for chunk in range(8):
                odd = chunk % 2 if kind == "Q4_0" else 0
                at = slice(chunk * 64, (chunk + 1) * 64)
                streams[odd] += order[at][kept[at]].tolist()
        if kind == "Q4_0":
            length = max(map(len, streams))
            low, high = ([*s, *[0] * (length - len(s))] for s in streams)
            stored = bytes(a | b << 4 for a, b in zip(low, high, strict=True))
        else:
            stored = np.array(streams[0], all_codes.dtype).tobytes()
        values.append(stored)
        ends.append(ends[-1] + len(stored))
    head = np.array(ends, "<u8").tobytes()
    head += b"\0" * (-len(head) % 64)
    return head, sides + b"".join(values) + b"\0" * 128


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("rows", "cols", "density"), [(16, 64, 0.5), (37, 96, 0.3), (5, 32, 0)])
def test_packed_bytes_are_those_that_the_layout_describes(kernel, kind, rows, cols, density):
    data, _ = matrix(kind, rows, cols, density)
    packed = PackedMatrix(kind, data, (rows, cols)).packed.tobytes()
    head, rest = by_numpy(kind, data, rows, cols)
    tiles = -(-rows // TILE)
    assert packed[: 8 * (tiles + 1)] == head[: 8 * (tiles + 1)]
    assert packed[len(head) :] == rest


shapes = st.tuples(st.integers(1, 70), st.integers(1, 9).map(lambda n: n * BLOCK))
densities = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@settings(max_examples=60)
@given(
    st.sampled_from(library.kernels()), st.sampled_from(sorted(TYPES)), shapes, densities,
    st.sampled_from([SPARSE, DENSE]), st.sampled_from([1, 2, 3, 4, 5, 8, 9, 17]),
    st.integers(1, 3), st.integers(0, 1 << 30),
)  # fmt: skip
def test_products_equal_the_reference(name, kind, shape, density, layout, tokens, threads, seed):
    library.use(name)
    data, values = matrix(kind, *shape, density, seed)
    x = np.random.default_rng(seed).standard_normal((tokens, shape[1])).astype(np.float32)
    packed = PackedMatrix(kind, data, shape, layout)
    found = packed.times(x, threads)
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(values, axis=1)[None] + 1e-30
    assert (np.abs(found - expected(kind, values, x)) <= 2e-6 * size).all()
    library.use()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", [SPARSE, DENSE])
@pytest.mark.parametrize("density", [0, 0.37, 1])
def test_unpacking_gives_the_tensor_back(kernel, kind, layout, density):
    data, _ = matrix(kind, 45, 160, density)
    again = PackedMatrix(kind, data, (45, 160), layout).unpack()
    assert (again == data.view(np.uint8).reshape(-1)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_rows_that_are_looked_up_are_those_of_the_tensor(kernel, kind):
    data, _ = matrix(kind, 37, 160, 0.7)
    expected = quants.dequantize(data, GGMLQuantizationType[kind])
    packed = PackedMatrix(kind, data, (37, 160), DENSE)
    assert all((packed.row(row) == expected[row]).all() for row in range(37))
    for row in (-1, 37):
        with pytest.raises(IndexError, match="cannot be looked up"):
            packed.row(row)
    with pytest.raises(IndexError):  # without its zeros, a row has no place
        PackedMatrix(kind, data, (37, 160)).row(0)


@pytest.mark.parametrize("kind", TYPES)
def test_empty_and_full_rows(kernel, kind):
    data, values = matrix(kind, 48, 128, 1)
    empty, _ = matrix(kind, 48, 128, 0)
    data[::3] = empty[::3]
    values[::3] = 0
    x = np.random.default_rng(1).standard_normal((9, 128)).astype(np.float32)
    found = PackedMatrix(kind, data, (48, 128)).times(x)
    assert (found[:, ::3] == 0).all()
    assert found == pytest.approx(expected(kind, values, x), abs=1e-4)


def test_any_code_of_a_byte_is_right(kernel):
    """Also -128, which quantisers don't write and hostile files may."""
    chance = np.random.default_rng(0)
    data = np.zeros((16, 34), np.uint8)
    data[:, :2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    data[:, 2:] = chance.integers(0, 256, (16, 32))
    data[0, 2:], data[1, 2:] = 0x80, 0x7F
    x = np.where(chance.random((1, 32)) < 0.5, -1.0, 1.0).astype(np.float32)
    values = quants.dequantize(data, GGMLQuantizationType.Q8_0).astype(np.float64)
    found = PackedMatrix("Q8_0", data, (16, 32)).times(x)
    assert found == pytest.approx(expected("Q8_0", values, x), rel=1e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_every_16_bit_value_is_widened_right(kernel, kind):
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = bits.view("f2") if kind == "F16" else (bits.astype("u4") << 16).view("f4")
        values = wide.astype(np.float64)
    usable = np.isfinite(values) & (np.abs(values) < 1e30)
    bits = np.where(usable, bits, 0).astype(np.uint16).reshape(-1, BLOCK)
    values = np.where(usable, values, 0).reshape(-1, BLOCK)
    found = PackedMatrix(kind, bits.view(np.uint8), bits.shape).times(np.eye(BLOCK, dtype="f4"))
    assert (values.astype(np.float32) == found.T).all()


def test_scales_of_tiny_activations_are_those_of_half_precision(kernel):
    """Subnormal scales, too: llama.cpp stores them as such."""
    data, values = matrix("Q8_0", 16, 32, 1)
    x = np.random.default_rng(2).standard_normal((40, 32)).astype(np.float32)
    x *= 10.0 ** -np.arange(0, 10, 0.25, dtype=np.float32)[:, None]
    found = PackedMatrix("Q8_0", data, (16, 32)).times(x)
    assert found == pytest.approx(expected("Q8_0", values, x), rel=1e-4, abs=1e-12)


def test_zero_activations_give_zeros(kernel):
    for kind in TYPES:
        data, _ = matrix(kind, 20, 64, 0.5)
        assert (PackedMatrix(kind, data, (20, 64)).times(np.zeros((3, 64), "f4")) == 0).all()


def test_bytes_per_weight_are_those_of_the_design():
    """At 50 %: 1 bit of mask, half a bit of scale, half the codes; a tile's offset beside."""
    for kind, bits in (("Q8_0", 5.5), ("Q4_0", 3.5), ("F16", 9.0), ("BF16", 9.0), ("F32", 17.0)):
        values = np.ones((256, 2048), np.float32)
        columns = np.random.default_rng(0).permuted(np.tile(np.arange(2048), (256, 1)), axis=1)
        np.put_along_axis(values, columns[:, :1024], 0, axis=1)
        data = quants.quantize(values, GGMLQuantizationType[kind])
        size = PackedMatrix(kind, data, values.shape).packed.nbytes
        assert size * 8 / values.size == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("kept", "group"), [(2, 4), (32, 64)])
def test_fixed_patterns_give_records_of_one_size(kind, kept, group):
    """Of 2:4 every chunk, of 32:64 every pair of blocks takes the same bytes, without padding."""
    rows, columns = 64, 256
    values = np.random.default_rng(5).standard_normal((rows, columns)).astype(np.float32)
    values += np.sign(values)  # far from what rounds to zero
    groups = values.reshape(-1, group)
    np.put_along_axis(groups, np.abs(groups).argsort(axis=1)[:, : group - kept], 0, axis=1)
    data = quants.quantize(values, GGMLQuantizationType[kind])
    packed = PackedMatrix(kind, data, values.shape).packed
    ends = packed[: 8 * (rows // TILE + 1)].view("<u8")
    bits = {"Q8_0": 8, "Q4_0": 4, "F32": 32}.get(kind, 16)
    exact = TILE * columns // 2 * bits // 8
    if kind == "Q4_0" and group == 64:  # its two streams differ in length by chance
        assert (np.diff(ends) < 1.1 * exact).all()
    else:
        assert (np.diff(ends) == exact).all()


@settings(max_examples=40)
@given(st.sampled_from(sorted(TYPES)), shapes, st.floats(0, 1), st.integers(0, 1 << 30))
def test_two_in_four_are_read_from_the_file_that_holds_them_so(kind, shape, most, seed):
    """Damaged, they are refused, or are other weights; nothing outside is touched."""
    data = two_in_four(kind, shape, most, seed)
    form, size = forms.find(kind, data, shape[1])
    assert form.two_of_four or most < 1  # where more are zero, a mask of single bits may be smaller
    form = replace(form if form.two_of_four else forms.whole(kind), two_of_four=True)
    file = packing.pack(kind, data, form)
    assert size <= len(file) == form.size(kind, math.prod(shape), 0)
    assert (packing.unpack(kind, file, math.prod(shape), form) == data).all()
    packed = PackedMatrix(kind, data, shape)
    again = copy(packed)
    again.packed = from_file(packed, file, form)
    assert again.packed.size == packed.packed.size
    assert (again.unpack() == data).all()
    chance = np.random.default_rng(seed)
    file[chance.integers(len(file), size=4)] = chance.integers(0, 256, 4)
    damaged = from_file(packed, file, form)
    assert damaged is None or damaged.size >= packed.packed.size - file.size


def two_in_four(kind, shape, most, seed):
    """A tensor's bytes, (bytes,), at most two of every four weights not zero."""
    chance = np.random.default_rng(seed)
    values = chance.standard_normal(shape).astype(np.float32) + 3
    fours = values.reshape(-1, 4)
    np.put_along_axis(fours, chance.random(fours.shape).argsort(axis=1)[:, :2], 0, axis=1)
    fours[chance.random(fours.shape) > most] = 0
    return quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8).reshape(-1)


def from_file(packed, file, form):
    """Packed bytes of a tensor of a packed file; None if it is damaged."""
    held, source = library.FileForm.of(form), np.ascontiguousarray(file).ctypes.data
    size = library.library().ep_packed_size_of_file(packed.shape, held, source, len(file), 2)
    if not size:
        return None
    found = np.empty(size, np.uint8)
    failed = library.library().ep_pack_file(
        packed.shape, held, source, len(file), found.ctypes.data, size, 2
    )
    assert not failed
    return found


def test_what_cannot_be_packed_or_used_is_said():
    with pytest.raises(ValueError, match="cannot be packed"):
        PackedMatrix("Q8_0", np.zeros(1, np.uint8), (16, 33))
    with pytest.raises(MachineError, match="no kernels 'quantum'"):
        library.use("quantum")
    assert library.in_use() == library.kernels()[0]
