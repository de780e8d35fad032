"""Opening GGUF files from strangers: one clear error, in bounded time and memory."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.inspection import inspect
from edgeprune.formats.metadata import read_gguf
from edgeprune.support.errors import InputError


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.name", "small")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("blk.0.x.weight", np.ones((4, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def opened(data: bytes, folder: Path):
    path = folder / "case.gguf"
    path.write_bytes(data)
    return open_gguf(path)


def test_a_good_file_opens(small_file, tmp_path):
    reader = opened(small_file, tmp_path)
    assert reader.get("general.name") == "small"
    assert reader.get("absent", 7) == 7
    assert read_gguf(reader) is None
    found = inspect(tmp_path / "case.gguf")
    assert not found["sparse"]
    assert [t["sparsity"] for t in found["tensors"]] == [0, 0]


def test_every_truncation_is_refused(small_file, tmp_path):
    for size in range(0, len(small_file), 7):
        with pytest.raises(InputError, match=r"not a valid GGUF file|is empty"):
            opened(small_file[:size], tmp_path)


def claims(tensors: int = 0, keys: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(40), "does not start with"),
        (claims(version=99), "version 99"),
        (claims(tensors=1 << 60), "declares"),
        (claims(keys=1 << 60), "declares"),
        (claims(keys=1, body=struct.pack("<Q", 1 << 62)), "declares"),
        (claims(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 0, 1 << 62)), "ends inside"),
        (claims(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 8, 1 << 62)), "an array of"),
        (claims(keys=1, body=string(b"k") + struct.pack("<I", 77)), "unknown metadata type"),
        (
            claims(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 9, 1) * 1
                   + struct.pack("<IQ", 9, 1) * 6 + bytes(64)),
            "nested",
        ),
        (
            claims(keys=1, body=string(b"general.alignment") + struct.pack("<II", 4, 3)),
            "alignment 3",
        ),
        (
            claims(keys=2, body=(string(b"k") + struct.pack("<IB", 0, 1)) * 2),
            "twice",
        ),
        (
            claims(tensors=1, body=string(b"t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0)
                   + bytes(64)),
            "ends at byte",
        ),
        (
            claims(tensors=1, body=string(b"t") + struct.pack("<I", 4000) + bytes(64)),
            "4000 dimensions",
        ),
        (
            claims(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 32, 250, 0) + bytes(256)),
            "unknown type 250",
        ),
        (
            claims(tensors=1, body=string(b"t") + struct.pack("<IQQIQ", 2, 0, 1 << 62, 0, 0)),
            "is empty",
        ),
        (
            claims(tensors=2, body=string(b"a") + struct.pack("<IQIQ", 1, 8, 0, 0)
                   + string(b"b") + struct.pack("<IQIQ", 1, 8, 0, 0) + bytes(96)),
            "overlaps another",
        ),
        (
            claims(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(96)),
            "not whole blocks",
        ),
        (
            claims(keys=1, body=string(b"general.alignment") + struct.pack("<IIQ", 9, 0, 99)
                   + bytes(99)),
            "alignment 0",
        ),
        (
            claims(tensors=2, body=(string(b"t") + struct.pack("<IQIQ", 1, 8, 0, 0)) * 2),
            "twice",
        ),
    ],
)  # fmt: skip
def test_lies_are_named(data, message, tmp_path):
    with pytest.raises(InputError, match=message):
        opened(data, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("edgeprune.schema", ["x"]),
        ("edgeprune.sparsity.nonzeros", [float("inf")]),
        ("edgeprune.recipe", "[" * 100_000),
        ("edgeprune.task", 7),
    ],
)
def test_metadata_that_makes_no_sense_is_one_error(key, value, tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    facts = {
        "edgeprune.schema": 1, "edgeprune.sparsity.pattern": "2:4", "edgeprune.method": "m",
        "edgeprune.sparsity.target": 0.5, "edgeprune.fusion": "mix", "edgeprune.task": "t",
        "edgeprune.recipe": "{}", "edgeprune.base.sha256": "0", "edgeprune.sparsity.nonzeros": [1],
        "edgeprune.sparsity.tensors": ["x"],
    }  # fmt: skip
    for name, fact in (facts | {key: value}).items():
        add = {int: writer.add_uint32, str: writer.add_string, float: writer.add_float32,
               list: writer.add_array}[type(fact)]  # fmt: skip
        add(name, fact)
    writer.add_tensor("x", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="sparsity metadata is damaged"):
        inspect(tmp_path / "m.gguf")


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_files_open_or_are_refused_quickly(small_file, tmp_path, data):
    changed = bytearray(small_file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    start = time.perf_counter()
    (tmp_path / "case.gguf").write_bytes(changed)
    try:
        found = inspect(tmp_path / "case.gguf")
    except InputError:
        found = None
    assert found is None or "tensors" in found
    assert time.perf_counter() - start < 1
