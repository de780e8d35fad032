"""Sparse weights inside llama.cpp: beside stock on the same file, in every way they can be off."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from llama_cpp import llama_cpp as api

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.gguf.packed import PackedFile, pack
from edgeprune.runtime import library, load_model, status
from edgeprune.runtime.llamacpp import adapter, availability, loading, probe, random_model
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama
from edgeprune.support.errors import InputError, MachineError
from tests.support.llama import SIZES, logits, sparse, stock
from tests.support.processes import EDGEPRUNE
from tests.support.sparse import begin_with_stock, needs_kernels


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A block of each type, half of the weights zero."""
    path = tmp_path_factory.mktemp("mixed") / "m.gguf"
    write_random_llama(path, SIZES, 0.5)
    return path


@pytest.fixture(autouse=True)
def stock_loader(monkeypatch):
    begin_with_stock(monkeypatch)


def close(one, other, tolerance=probe.TOLERANCE):
    return (np.linalg.norm(one - other, axis=1) < tolerance * np.linalg.norm(other, axis=1)).all()


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_batch_and_any_threads_give_the_logits_of_stock_llama_cpp(mixed, threads):
    batches = [1, 2, 3, 9, 64, 1, 300, 1]
    loaded = sparse(mixed)
    assert loaded.sparse.tensors == 7 * len(SIZES.types)
    assert loaded.sparse.failures == 0
    assert close(logits(loaded.model, batches, threads), logits(stock(mixed), batches, threads))


@needs_kernels
def test_sparse_weights_are_really_multiplied_by_our_kernels(mixed):
    """Their float32 activations at 16 bits are finer than llama.cpp's: equal logits mean stock."""
    one, other = logits(sparse(mixed).model, [5]), logits(stock(mixed), [5])
    assert (one != other).any()


HEADS = ["Q8_0", "Q4_0", "F16", "Q4_0:3", "Q4_0:2/64"]


@needs_kernels
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_runs_in_our_kernels_and_its_rows_are_looked_up(tmp_path, head, tied):
    plain, small = tmp_path / "m.gguf", tmp_path / "m.packed.gguf"
    write_random_llama(plain, Sizes(("Q8_0",), head_type=head, tied=tied), 0.5)
    pack(plain, small)
    loaded, batches = sparse(plain), [1, 5, 1, 64, 1]
    narrow = ":" in head and library.narrow_gains()
    tables = 1 if tied else 1 + narrow  # only looked up, one gains where it has few codes
    heads = tables if narrow or library.dense_gains(head.partition(":")[0]) else 0
    assert loaded.sparse.tensors == 7 + heads
    found = logits(loaded.model, batches)
    assert close(found, logits(stock(plain), batches))
    assert (found == logits(sparse(small).model, batches)).all()


@needs_kernels
def test_a_tied_head_that_packs_with_a_mask_is_looked_up_all_the_same(tmp_path, monkeypatch):
    """Most of its weights are zero, so that its file has a mask; a row still needs its place."""
    plain, small = tmp_path / "m.gguf", tmp_path / "m.packed.gguf"
    draw = random_model._random
    monkeypatch.setattr(random_model, "_random", lambda *shape: draw(*shape[:3], 0.7))
    write_random_llama(plain, Sizes(("Q8_0",), head_type="Q4_0:3", tied=True), 0.7)
    pack(plain, small)
    assert PackedFile(small).form("token_embd.weight").masked
    assert close(logits(sparse(small).model, [5, 1]), logits(stock(plain), [5, 1]))


@needs_kernels
def test_a_tied_head_takes_no_second_table(tmp_path):
    """Looked up where it is multiplied by, it stands in memory once, in its few codes."""
    path = tmp_path / "m.gguf"
    write_random_llama(path, Sizes(("Q8_0",), head_type="Q4_0:3", tied=True), 0.5)
    if not library.narrow_gains():
        pytest.skip("these kernels have no narrow codes")
    placed = sparse(path).sparse
    without = Sizes(("Q8_0",), head_type="F32", tied=True)
    write_random_llama(path, without, 0.5)
    table = placed.packed_bytes - sparse(path).sparse.packed_bytes
    assert table * 8 / (without.vocabulary * without.width) == pytest.approx(3.5, rel=0.1)


@needs_kernels
@pytest.mark.parametrize("kind", library.TYPES)
def test_packed_files_give_the_same_as_plain_ones(tmp_path, kind):
    plain, small = tmp_path / "m.gguf", tmp_path / "m.packed.gguf"
    write_random_llama(plain, Sizes((kind,), head_type="F16"), 0.6)
    pack(plain, small)
    one, other = sparse(plain), sparse(small)
    assert one.sparse == other.sparse
    assert (logits(one.model, [9, 1]) == logits(other.model, [9, 1])).all()


@needs_kernels
def test_damaged_packed_tensors_are_refused(mixed, tmp_path):
    small = tmp_path / "m.packed.gguf"
    pack(mixed, small)
    name = "blk.2.ffn_down.weight"  # Q8_0
    run = next(t for t in open_gguf(small).tensors if t.name == name)
    data = bytearray(small.read_bytes())
    side = 2 * 128 * 288 // 32
    assert data[run.offset + side] != 255
    data[run.offset + side] = 255  # the mask's first byte: it now promises more than there is
    small.write_bytes(data)
    with pytest.raises(InputError, match=r"blk\.2\.ffn_down\.weight' is damaged"):
        sparse(small)


@needs_kernels
def test_what_llama_cpp_saves_again_is_the_same_tensors(mixed, tmp_path):
    model, out = sparse(mixed).model, tmp_path / "saved.gguf"
    api.llama_model_save_to_file(model, str(out).encode())
    before = {t.name: t for t in GGUFReader(mixed).tensors}
    after = {t.name: t for t in GGUFReader(out).tensors}
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert (np.array(tensor.data) == np.array(after[name].data)).all(), name


@needs_kernels
def test_lora_adapters_work_on_sparse_weights(mixed, tmp_path):
    path, chance = tmp_path / "lora.gguf", np.random.default_rng(3)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for block in range(len(library.TYPES)):
        for name, rows, columns in (("attn_q", 128, 128), ("ffn_down", 128, 288)):
            base = f"blk.{block}.{name}.weight"
            writer.add_tensor(f"{base}.lora_a", 0.1 * chance.standard_normal((4, columns), "f4"))
            writer.add_tensor(f"{base}.lora_b", 0.1 * chance.standard_normal((rows, 4), "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = []
    for model in (sparse(mixed).model, stock(mixed)):
        lora = api.llama_adapter_lora_init(model, str(path).encode())
        assert lora
        found.append(logits(model, [9, 1], lora=lora))
    assert close(*found)
    assert not close(found[0], logits(stock(mixed), [9, 1]), 0.05)  # the adapter does something


@needs_kernels
def test_models_side_by_side_and_one_after_another(mixed, tmp_path):
    other = tmp_path / "other.gguf"
    write_random_llama(other, replace(SIZES, types=("Q8_0", "Q4_0")), 0.7)
    first, second = sparse(mixed).model, sparse(other).model
    one, two = logits(first, [5]), logits(second, [5])
    api.llama_model_free(first)
    assert (logits(second, [5]) == two).all()
    api.llama_model_free(second)
    assert (logits(sparse(mixed).model, [5]) == one).all()


@needs_kernels
def test_memory_holds_the_packed_form_only(tmp_path):
    path = tmp_path / "m.gguf"
    sizes = Sizes(("Q8_0",) * 4, width=1024, feed_forward=4096, heads=16, kv_heads=4)
    write_random_llama(path, sizes, 0.5)
    held = {}
    for switch_on in ("0", "1"):
        environment = os.environ | {"EDGEPRUNE_SPARSE": switch_on, "FILE": str(path)}
        done = subprocess.run(
            [sys.executable, "-c", _HELD], env=environment, check=True, capture_output=True
        )
        held[switch_on] = json.loads(done.stdout)
    dense = sum(t.size for t in open_gguf(path).tensors if t.name.startswith("blk."))
    assert held["1"]["packed"] < 0.66 * dense
    assert held["0"]["bytes"] > 0.95 * dense
    slack = 12 << 20  # of allocators and threads
    assert held["1"]["bytes"] < held["0"]["bytes"] - dense + held["1"]["packed"] + slack
    # Loading takes no more than what is kept, and one tensor as it is in the file.
    assert held["1"]["peak"] < held["1"]["bytes"] + 4096 * 1024 * 1.0625 + slack


_HELD = """
import json, os
from pathlib import Path
from llama_cpp import llama_cpp as api
from edgeprune.runtime import load_model
def read(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l.split()[1] for l in lines if l.startswith(key))) << 10
api.llama_log_set(quiet := api.llama_log_callback(lambda *_: None), None)
params = api.llama_model_default_params()
params.load_mode = api.LLAMA_LOAD_MODE_NONE
api.llama_backend_init()
before = read("RssAnon"), read("VmHWM")
loaded = load_model(Path(os.environ["FILE"]), params)
print(json.dumps({"bytes": read("RssAnon") - before[0], "peak": read("VmHWM") - before[1],
                  "packed": loaded.sparse.packed_bytes if loaded.sparse else 0}))
"""


def in_a_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


_OFF = """
import sys
from pathlib import Path
import numpy as np
from tests.support.llama import logits
from edgeprune.runtime import load_model
from tests.support.llama import stock
from llama_cpp import llama_cpp as api
one = stock(Path(sys.argv[1])) if "first" in sys.argv else None
loaded = load_model(Path(sys.argv[1]), api.llama_model_default_params())
assert loaded.sparse is None
expected = logits(one or stock(Path(sys.argv[2])), [9, 1])
assert (logits(loaded.model, [9, 1]) == expected).all()
print(loaded.off)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_without_sparse_weights_the_model_runs_dense_and_that_is_said_once(mixed, tmp_path, packed):
    path = mixed
    if packed:
        path = tmp_path / "m.packed.gguf"
        pack(mixed, path)
    code = f"import sys; sys.argv = ['', {str(path)!r}, {str(mixed)!r}]\n{_OFF}"
    done = in_a_process(code, EDGEPRUNE_SPARSE="0")
    assert done.stdout == "EDGEPRUNE_SPARSE=0 is set\n"
    line = "Sparse weights are off: EDGEPRUNE_SPARSE=0 is set. The model runs dense."
    assert done.stderr.count(line) == 1


@needs_kernels
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_that_was_loaded_before_is_no_trap(mixed, tmp_path, packed):
    """llama.cpp has made its list of buffer types by then: nothing is placed."""
    path = mixed
    if packed:
        path = tmp_path / "m.packed.gguf"
        pack(mixed, path)
    code = (
        "from llama_cpp import llama_cpp as api\n"
        f"first = api.llama_model_load_from_file({str(mixed)!r}.encode(), "
        "api.llama_model_default_params())\n"
        "from pathlib import Path\n"
        "from edgeprune.runtime import load_model\n"
        f"loaded = load_model(Path({str(path)!r}), api.llama_model_default_params())\n"
        "print(loaded.off)\n"
        "from tests.support.llama import logits\n"
        "assert (logits(loaded.model, [9, 1]) == logits(first, [9, 1])).all()\n"
    )
    assert "call edgeprune.runtime.enable() before" in in_a_process(code).stdout


@needs_kernels
def test_files_that_are_too_dense_are_left_to_llama_cpp(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_LAYOUT")
    path = tmp_path / "m.gguf"
    write_random_llama(path, Sizes(("BF16", "F32")), 0)
    loaded = sparse(path)
    assert loaded.sparse is None
    assert "too dense" in loaded.off


@needs_kernels
def test_dense_tensors_stand_with_their_zeros_where_kernels_gain_by_themselves(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("EDGEPRUNE_LAYOUT")
    gaining = tuple(kind for kind in library.TYPES if library.dense_gains(kind))
    if not gaining:
        pytest.skip("the kernels in use gain nothing without zeros")
    path = tmp_path / "m.gguf"
    write_random_llama(path, Sizes((*gaining, "BF16")), 0)
    loaded = sparse(path)
    assert loaded.sparse.tensors == 7 * len(gaining)
    assert loaded.sparse.packed_bytes == pytest.approx(loaded.sparse.dense_bytes, rel=0.05)
    assert close(logits(loaded.model, [9, 1]), logits(stock(path), [9, 1]))


def test_a_vocabulary_alone_is_loaded_as_ever(mixed, capfd):
    params = api.llama_model_default_params()
    params.vocab_only = True
    loaded = load_model(mixed, params)
    assert loaded.model
    assert loaded.sparse is None
    assert "Sparse weights are off" not in capfd.readouterr().err


def test_metadata_of_another_schema_is_no_reason_to_refuse_a_model(mixed, tmp_path):
    data = bytearray(mixed.read_bytes())
    at = data.index(b"edgeprune.schema") + len("edgeprune.schema") + 4
    data[at : at + 4] = (7).to_bytes(4, "little")
    path = tmp_path / "newer.gguf"
    path.write_bytes(data)
    loaded = load_model(path, api.llama_model_default_params())
    assert loaded.model
    assert "schema 7" in loaded.off


@needs_kernels
def test_parameters_are_not_changed_and_locking_is_kept(mixed):
    params = api.llama_model_default_params()
    params.load_mode = api.LLAMA_LOAD_MODE_MMAP_MLOCK
    assert loading._unmapped(params).load_mode == api.LLAMA_LOAD_MODE_MLOCK
    params.load_mode = api.LLAMA_LOAD_MODE_MMAP
    assert load_model(mixed, params).sparse
    assert params.load_mode == api.LLAMA_LOAD_MODE_MMAP


@needs_kernels
def test_threads_that_load_at_once_get_their_own_models(mixed, tmp_path):
    """Same names and shapes, other weights, one packed: claims must not mix."""
    plain, small = tmp_path / "m.gguf", tmp_path / "m.packed.gguf"
    data = bytearray(mixed.read_bytes())
    for tensor in open_gguf(mixed).tensors:
        if tensor.type.name == "Q8_0":  # double the scales
            block = data[tensor.offset : tensor.offset + tensor.size]
            block[1::34] = bytes(byte + 4 for byte in block[1::34])
            data[tensor.offset : tensor.offset + tensor.size] = block
    plain.write_bytes(data)
    pack(plain, small)
    expected = [logits(sparse(path).model, [5]) for path in (mixed, small)]
    assert not close(*expected)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(sparse, [mixed, small] * 4))
    for index, one in enumerate(loaded):
        assert (logits(one.model, [5]) == expected[index % 2]).all()


@needs_kernels
def test_a_plain_file_that_changes_while_it_is_loaded_gives_what_llama_cpp_read(
    mixed, tmp_path, monkeypatch
):
    path, honest = tmp_path / "m.gguf", loading._load
    path.write_bytes(mixed.read_bytes())

    def change_then_load(path, *others):
        write_random_llama(path, SIZES, 0.1)
        return honest(path, *others)

    monkeypatch.setattr(loading, "_load", change_then_load)
    assert close(logits(sparse(path).model, [9]), logits(stock(path), [9]))


@needs_kernels
def test_a_packed_file_that_changes_while_it_is_loaded_is_refused(mixed, tmp_path, monkeypatch):
    path, honest = tmp_path / "m.packed.gguf", loading._load
    pack(mixed, path)
    run = next(t for t in open_gguf(path).tensors if t.name == "blk.2.ffn_down.weight")  # Q8_0

    def change_then_load(*all_of_it):
        with path.open("r+b") as file:
            file.seek(run.offset + 2 * 128 * 288 // 32)
            file.write(b"\xff" * 8)  # the mask now promises more than there is
        return honest(*all_of_it)

    monkeypatch.setattr(loading, "_load", change_then_load)
    with pytest.raises(InputError, match="changed while it was being loaded"):
        sparse(path)


@needs_kernels
def test_a_model_that_another_thread_loads_meanwhile_is_not_touched(mixed, tmp_path, monkeypatch):
    """By llama.cpp's own function, with tensors of the same names and shapes."""
    other, honest, beside = tmp_path / "other.gguf", loading._load, []
    write_random_llama(other, SIZES, 0.2)
    expected = logits(stock(other), [9])

    def load_both(*all_of_it):
        thread = Thread(target=lambda: beside.append(stock(other)))
        thread.start()
        thread.join()
        return honest(*all_of_it)

    monkeypatch.setattr(loading, "_load", load_both)
    ours = sparse(mixed)
    assert (logits(beside[0], [9]) == expected).all()
    assert ours.sparse.tensors == ours.sparse.claimed


@needs_kernels
def test_metadata_may_lie(mixed, tmp_path):
    """A file that claims fewer non-zeros, or codes, than it has is no danger: its bytes count."""
    data = bytearray(mixed.read_bytes())
    at, size = open_gguf(mixed).place("edgeprune.sparsity.nonzeros")
    data[at : at + size] = bytes(size)
    alphabets = data.index(b"edgeprune.storage.codes")
    data[alphabets:] = data[alphabets:].replace(b"2+mask", b"1+mask", 7)
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    loaded, honest = sparse(path), sparse(mixed)
    assert loaded.sparse.tensors == honest.sparse.tensors > 0
    assert loaded.sparse.packed_bytes >= honest.sparse.packed_bytes
    assert close(logits(loaded.model, [9]), logits(honest.model, [9]))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The switch as in a new process, with nothing known from before."""
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path))
    availability.status.cache_clear()
    yield
    availability.status.cache_clear()


def test_an_older_version_is_off(fresh, monkeypatch):
    monkeypatch.setattr(adapter, "CHECKED", ("99.0.1",))
    monkeypatch.setattr(probe, "run", lambda: pytest.fail("nothing is tried then"))
    with pytest.raises(MachineError, match=r"is older than .* expected 99\.0\.1 or newer"):
        adapter.check()
    assert not status().on
    assert "is older than" in status().reason


@needs_kernels
def test_a_newer_version_is_probed_and_named(fresh, monkeypatch):
    monkeypatch.setattr(adapter, "CHECKED", ("0.3.9",))
    monkeypatch.setattr(probe, "run", lambda: {"ok": True, "difference": 0.0})
    assert status().on
    assert "is newer than those tested" in status().reason


def test_the_probe_passes_here():
    """Not the verdict kept from before: the child of this very tree."""
    verdict = probe.run()
    assert verdict["ok"], verdict


def test_a_probe_that_crashes_is_off(fresh, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = status()
    assert not found.on
    assert found.reason.startswith("the probe exited with code 1")
    monkeypatch.setattr(sys, "executable", str(Path("absent")))
    availability.status.cache_clear()
    assert status().reason.startswith("the probe could not run")


def test_a_kernel_that_is_not_there_is_said(fresh, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_KERNEL", "quantum")
    assert "cannot run EDGEPRUNE_KERNEL=quantum; " in status().reason


@needs_kernels
def test_a_probe_that_finds_other_logits_is_off(fresh, monkeypatch):
    monkeypatch.setattr(probe, "TOLERANCE", 0.0)
    monkeypatch.setattr(probe, "run", probe._compare)
    assert not status().on
    assert "logits differ from llama.cpp's by" in status().reason


def test_without_the_library_it_is_off(fresh, monkeypatch, tmp_path):
    library.library.cache_clear()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "absent.so")
    try:
        assert not status().on
        assert "it failed to compile" in status().reason
    finally:
        library.library.cache_clear()


@needs_kernels
def test_the_verdict_is_kept_and_a_failure_is_not(fresh, monkeypatch):
    runs = []

    def run(ok):
        runs.append(ok)
        return {"ok": ok, "difference": 0.0, "reason": "no"}

    monkeypatch.setattr(probe, "run", lambda: run(False))
    assert not status().on
    availability.status.cache_clear()
    monkeypatch.setattr(probe, "run", lambda: run(True))
    assert status().on
    availability.status.cache_clear()
    assert status().on
    assert runs == [False, True]


@pytest.mark.parametrize("kernel", library.kernels())
def test_the_verb_says_what_is_on(kernel):
    command = [EDGEPRUNE, "runtime", "--json"]
    environment = os.environ | {"EDGEPRUNE_KERNEL": kernel}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["kernel"] == kernel
    assert found["on"] == (kernel != "portable")
    plain = subprocess.run(command[:2], check=True, capture_output=True, text=True).stdout
    assert "sparse weights    on: probe" in plain
