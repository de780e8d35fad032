"""The exporter against independent readers: gguf's own, transformers, stock llama.cpp."""

import importlib
import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, quants

from edgeprune.data.render import Renderer
from edgeprune.data.sources import load_split
from edgeprune.data.task import open_task
from edgeprune.engine import Pruning
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.inspection import inspect
from edgeprune.formats.metadata import SparsityMetadata, read_gguf
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.files import sha256_file
from exporters.base import Model, StorageRequest
from exporters.gguf import encode as gguf_encode
from exporters.gguf.plan import Rows
from exporters.gguf.same_ids import TEXTS
from exporters.gguf.types import TYPES
from runtime_tests.runners.llamacpp import LlamaCpp
from tests.support.exporting import Counter, dense_model, export_gguf, plan_as
from tests.support.gguf import logits_of, metadata
from tests.support.models import make_tiny
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

SAFE = [name for name, kind in TYPES.items() if kind.keeps_zeros and not name.startswith("tq")]


@pytest.mark.parametrize("type_name", SAFE)
def test_zeros_survive_and_an_independent_reader_counts_the_same(pruned_tiny, tmp_path, type_name):
    stage = Counter()
    path = tmp_path / "m.gguf"
    artifact = export_gguf(pruned_tiny, StorageRequest(type_name), path, metadata(), "test", stage)
    assert stage.steps == plan_as("gguf", pruned_tiny, StorageRequest(type_name)).steps
    declared = read_gguf(open_gguf(path)).nonzeros
    tensors = {t.name: t for t in GGUFReader(path).tensors}
    pruned = [facts for facts in artifact.tensors if facts.pruned]
    assert len(pruned) == len(pruned_tiny.pruned) == len(declared)
    for facts in pruned:
        values = quants.dequantize(tensors[facts.name].data, tensors[facts.name].tensor_type)
        assert int(np.count_nonzero(values)) == facts.nonzeros == declared[facts.name]
        assert 1 - facts.nonzeros / values.size >= 0.5
        assert facts.nonzeros + facts.rounded_to_zero == values.size // 2
    shown = {t["name"]: t for t in inspect(path)["tensors"]}
    assert all(shown[f.name]["declared_nonzeros"] == shown[f.name]["nonzeros"] for f in pruned)


def test_two_of_four_holds_in_the_file_after_the_rows_are_permuted(tiny_folder, tmp_path):
    checkpoint = open_checkpoint(str(tiny_folder))
    result = prune_uniformly(checkpoint, streams_of(2), Pruning(), tmp_path / "w", pattern="2:4")
    names = frozenset(record.name for record in result.records)
    path = tmp_path / "m.gguf"
    model = Model(checkpoint.folder, result.weights(), names)
    export_gguf(model, StorageRequest("q8_0"), path, metadata(pattern="2:4"), "test", Counter())
    for tensor in GGUFReader(path).tensors:
        if tensor.name.startswith("blk") and len(tensor.shape) == 2:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            assert (np.count_nonzero(values.reshape(-1, 4), axis=1) <= 2).all()


def test_metadata_is_there_for_everyone(pruned_tiny, tmp_path):
    path = tmp_path / "m.gguf"
    export_gguf(pruned_tiny, StorageRequest("q8_0"), path, metadata(), "edgeprune test", Counter())
    reader = open_gguf(path)
    assert reader.get("edgeprune.schema") == 1
    assert reader.get("general.quantized_by") == "edgeprune test"
    assert reader.get("general.file_type") == 7
    assert reader.get("general.architecture") == "llama"
    assert json.loads(reader.get("edgeprune.recipe")) == {"seed": 0}
    # Llama.metadata shows no arrays: the JSON text says it all
    text = json.loads(reader.get("edgeprune.manifest"))
    assert text["nonzeros"] == read_gguf(reader).nonzeros
    import llama_cpp

    shown = llama_cpp.Llama(str(path), vocab_only=True, verbose=False).metadata
    assert json.loads(shown["edgeprune.manifest"])["method"] == "wanda"


def test_lost_zeros_fail_the_export_and_leave_no_file(pruned_tiny, tmp_path, monkeypatch):
    honest = gguf_encode.quantize
    monkeypatch.setattr(gguf_encode, "quantize", lambda values, *how: honest(values + 0.01, *how))
    with pytest.raises(CheckFailed, match="pruned weights are no longer zero"):
        export_gguf(
            pruned_tiny, StorageRequest("f16"), tmp_path / "m.gguf", metadata(), "test", Counter()
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_every_stored_type_becomes_the_same_floats_as_in_torch(kind):
    types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    stored = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(types[kind])
    stored[0, :4] = torch.tensor([0.0, -0.0, float("inf"), 1e-7])
    assert torch.equal(torch.from_numpy(Rows(stored)[8:16]), stored[8:16].float())
    assert (Rows(stored)[:].view(np.uint32) == stored.float().numpy().view(np.uint32)).all()
    assert (Rows(stored, 1.0)[:] == (stored.float() + 1.0).numpy()).all()


def export_on_many_cores(model, folder, monkeypatch, kind="q8_0") -> str:
    """The hash of a file that was written by 32 threads, from many small parts."""
    for name in ("write", "verify"):
        monkeypatch.setattr(importlib.import_module(f"exporters.gguf.{name}"), "cores", lambda: 32)
    monkeypatch.setattr(gguf_encode, "_PART", 1 << 14)
    export_gguf(model, StorageRequest(kind), folder / "many.gguf", metadata(), "test", Counter())
    return sha256_file(folder / "many.gguf")


def test_many_cores_are_that_many_threads_and_the_same_bytes(pruned_tiny, tmp_path, monkeypatch):
    export_gguf(
        pruned_tiny, StorageRequest("q8_0"), tmp_path / "few.gguf", metadata(), "test", Counter()
    )
    before, most = threading.active_count(), 0
    start, honest = threading.Thread.start, gguf_encode.quantize

    def counted(thread):
        nonlocal most
        start(thread)
        most = max(most, threading.active_count() - before)

    def slow(*how):  # so that no thread is idle while there is work
        time.sleep(0.002)
        return honest(*how)

    monkeypatch.setattr(threading.Thread, "start", counted)
    monkeypatch.setattr(gguf_encode, "quantize", slow)
    many = export_on_many_cores(pruned_tiny, tmp_path, monkeypatch)
    assert 32 <= most <= 32 + 2  # the pool's; later two check the file beside the one that reads
    assert many == sha256_file(tmp_path / "few.gguf")


@pytest.mark.parametrize("ahead", [0, 1 << 12, 1 << 25])
def test_tensors_in_memory_are_bounded_by_bytes_not_by_cores(
    pruned_tiny, tmp_path, monkeypatch, ahead
):
    monkeypatch.setattr(gguf_encode, "AHEAD", ahead)
    held, seen = [], []
    begin, write = gguf_encode._begin, GGUFWriter.write_tensor_data

    def begun(pool, model, tensor):
        held.append(gguf_encode._held(tensor))
        seen.append((len(held), sum(held)))
        return begin(pool, model, tensor)

    def written(writer, data):
        write(writer, data)
        held.pop(0)

    monkeypatch.setattr(gguf_encode, "_begin", begun)
    monkeypatch.setattr(GGUFWriter, "write_tensor_data", written)
    export_on_many_cores(pruned_tiny, tmp_path, monkeypatch)
    assert not held
    assert all(tensors <= 2 or size <= 32 * ahead for tensors, size in seen)
    most = max(tensors for tensors, _ in seen)
    assert most == 2 if not ahead else most > 2


def test_wrong_counts_fail_the_export(pruned_tiny, tmp_path, monkeypatch):
    module = importlib.import_module("exporters.gguf.export")
    honest = module.set_counts

    def lie(path, file, found):
        counts = {name: count + 1 for name, count in found.nonzeros.items()}
        honest(path, file, SparsityMetadata(**{**vars(found), "nonzeros": counts}))

    monkeypatch.setattr(module, "set_counts", lie)
    with pytest.raises(CheckFailed, match="non-zero counts in the metadata differ"):
        export_gguf(
            pruned_tiny, StorageRequest("q8_0"), tmp_path / "m.gguf", metadata(), "test", Counter()
        )


def test_the_same_input_gives_the_same_bytes(pruned_tiny, tmp_path):
    for name in ("a", "b"):
        export_gguf(
            pruned_tiny, StorageRequest("q4_0"), tmp_path / name, metadata(), "test", Counter()
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_of_random_llamas_equal_transformers(real_checkpoint, tmp_path, tied, bias):
    folder = make_tiny(
        real_checkpoint, tmp_path / "m", tie_word_embeddings=tied, attention_bias=bias,
        num_hidden_layers=3, rope_theta=5000.0,
    )  # fmt: skip
    checkpoint = open_checkpoint(str(folder))
    path = tmp_path / "m.gguf"
    export_gguf(dense_model(checkpoint), StorageRequest("f32"), path, None, "test", Counter())
    ids = torch.randint(3, 49152, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_model(checkpoint, torch.float32)(ids).logits[0].numpy()
    got = logits_of(LlamaCpp(path, 2), ids[0].tolist())
    error = np.sqrt(np.square(got - expected).mean()) / expected.std()
    assert error < 0.005  # the KV cache is float16; a wrong rotary order or bias gives about 1


def test_top_tokens_of_the_real_model_equal_transformers(real_checkpoint, dense_f32):
    """Real prompts, float32 on both sides; only near-ties may fall the other way."""
    task = open_task("medqa")
    renderer = Renderer(task)
    prompts = [renderer.calibration_text(r) for r in load_split(task).evaluation[:6]] + [*TEXTS]
    tokenizer = load_tokenizer(real_checkpoint)
    model = load_model(real_checkpoint, torch.float32)
    runner = LlamaCpp(dense_f32, 2)
    positions = equal = 0
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        assert runner.tokenize(prompt) == ids
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0]
        top = expected.topk(2).values
        clear = (top[:, 0] - top[:, 1] > 0.05).numpy()
        same = logits_of(runner, ids).argmax(1) == expected.argmax(1).numpy()
        assert same[clear].all()
        positions += len(ids)
        equal += int(same.sum())
    assert positions > 1000
    assert equal / positions > 0.995


def test_tokenizer_and_template_of_the_source_are_kept(real_checkpoint, dense_f32):
    ours, theirs = GGUFReader(dense_f32), GGUFReader(real_checkpoint.gguf)
    kept = [key for key in theirs.fields if key.startswith("tokenizer.")]
    assert len(kept) > 8
    for key in kept:
        assert ours.fields[key].contents() == theirs.fields[key].contents(), key
    for key in ("general.name", "general.license", "general.size_label"):
        assert ours.fields[key].contents() == theirs.fields[key].contents()


def test_a_folders_tokenizer_gives_the_same_ids_in_llama_cpp(tiny_folder, tmp_path):
    checkpoint = open_checkpoint(str(tiny_folder))
    path = tmp_path / "m.gguf"
    export_gguf(dense_model(checkpoint), StorageRequest("f16"), path, None, "test", Counter())
    tokenizer = load_tokenizer(checkpoint)
    runner = LlamaCpp(path, 2)
    for text in TEXTS:
        assert runner.tokenize(text) == tokenizer(text, add_special_tokens=False).input_ids, text
    reader = open_gguf(path)
    assert "<|im_start|>" in reader.get("tokenizer.chat_template")
    assert reader.get("tokenizer.ggml.eos_token_id") == 2
    assert len(reader.get("tokenizer.ggml.tokens")) == 49152


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "does not support the architecture 'mamba'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' lacks factor"),
        ({"layer_types": ["sliding_attention"] * 2}, "no sliding_window"),
    ],
)
def test_what_is_not_supported_is_refused(tiny_folder, tmp_path, change, message):
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    model = dense_model(open_checkpoint(str(folder)))
    with pytest.raises(InputError, match=message):
        export_gguf(model, StorageRequest("f16"), tmp_path / "m.gguf", None, "test", Counter())
    assert not (tmp_path / "m.gguf").exists()


def test_an_unknown_pre_tokenizer_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="unknown pre-tokenizer"):
        export_gguf(
            dense_model(open_checkpoint(str(folder))), StorageRequest("f16"), tmp_path / "m.gguf",
            None,
            "t", Counter(),
        )  # fmt: skip


def test_the_writer_packs_arrays_as_ggufs_own_does(tmp_path):
    from gguf import GGUFValueType, GGUFWriter

    from edgeprune.formats.gguf.file import open_gguf
    from exporters.gguf.writer import Writer, copy_fields

    def fill(writer):
        writer.add_array("texts", ["a", "", "Ä", "語"])
        writer.add_array("bytes", [b"a", b"\xff"])
        writer.add_array("numbers", [1, -2])
        writer.add_array("floats", [0.5, 1e30])
        writer.add_array("flags", [True, False])
        big = [2**63, 0]
        writer.add_key_value("big", big, GGUFValueType.ARRAY, GGUFValueType.UINT64)
        writer.add_array("raw", b"\x00\x01")
        writer.add_string("text", "x")

    def save(writer, filled):
        filled(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()

    paths = [tmp_path / name for name in ("theirs", "ours", "copied")]
    save(GGUFWriter(paths[0], "llama"), fill)
    save(Writer(paths[1], "llama"), fill)
    source = open_gguf(paths[0])
    copied = Writer(paths[2], "llama")
    save(copied, lambda w: copy_fields(w, source, "", except_for=("general.architecture",)))
    assert paths[1].read_bytes() == paths[0].read_bytes() == paths[2].read_bytes()
