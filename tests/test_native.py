"""The native library under sanitizers, on ARM, and beside llama.cpp's own headers."""

import ctypes
import shutil
import signal
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeprune.runtime import library
from edgeprune.runtime.library import LIBRARY
from edgeprune.runtime.llamacpp import adapter
from edgeprune.runtime.llamacpp.adapter import CHECKED
from edgeprune.support.errors import MachineError
from edgeprune.support.files import cache_folder

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "edgeprune" / "runtime"
NATIVE, LLAMA = RUNTIME / "kernels", RUNTIME / "llamacpp"
CHECK = ROOT / "tests" / "native" / "check_kernels.cpp"
X86 = {
    "isa_avx2.cpp": ["-mavx2", "-mfma", "-mf16c", "-mpopcnt"],
    "isa_avx512.cpp": [
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx512vbmi2", "-mpopcnt",
    ],
}  # fmt: skip
ARM = {"isa_neon.cpp": ["-march=armv8.2-a+dotprod"]}


def compile_check(compiler, folder, flags, per_file):
    """Build check_kernels.cpp with the library's own sources."""
    objects = []
    sources = ["kernels.cpp", "pack.cpp", "packed_file.cpp", "isa_portable.cpp", *per_file]
    for source in [*(NATIVE / name for name in sources), CHECK]:
        out = folder / f"{source.stem}.o"
        command = [compiler, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        command += ["-ffp-contract=off", *flags]
        command += [*per_file.get(source.name, []), f"-I{NATIVE}", "-c", source, "-o", out]
        subprocess.run(command, check=True)
        objects.append(out)
    program = folder / "check"
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", program], check=True)
    return program


def need(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed, so this was not checked: {', '.join(missing)}")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sanitizers are set up for Linux")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_under_sanitizers(tmp_path, sanitizer):
    need("g++")
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = compile_check("g++", tmp_path, flags, X86)
    done = subprocess.run([program, "4"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable" in done.stdout


@pytest.mark.slow
def test_kernels_on_arm(tmp_path):
    """Cross-compiled, and run by an emulator."""
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = compile_check("aarch64-linux-gnu-g++", tmp_path, ["-static"], ARM)
    command = ["qemu-aarch64", "-cpu", "max", program, "3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kernels neon portable" in done.stdout


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """check_failures.cpp beside the library that Python loads."""
    need("g++")
    if not sys.platform.startswith("linux"):
        pytest.skip("this stands in for a system without memory or threads on Linux alone")
    program = tmp_path_factory.mktemp("failures") / "check"
    command = ["g++", "-std=c++17", "-g", "-Wall", "-Wextra", "-Werror", "-rdynamic", f"-I{NATIVE}"]
    command += [ROOT / "tests" / "native" / "check_failures.cpp", LIBRARY, "-pthread", "-ldl"]
    subprocess.run([*command, f"-Wl,-rpath,{LIBRARY.parent}", "-o", program], check=True)
    return program


def run_check(program, what):
    return subprocess.run([program, what], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("what", ["memory", "threads", "buffers", "loading"])
def test_no_failure_crosses_the_c_interface(failures, what):
    """An allocation that fails is an error code; missing threads cost only time."""
    done = run_check(failures, what)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"done: {what}\n"


@pytest.mark.parametrize("what", ["set", "get"])
def test_a_weight_that_nobody_claimed_ends_the_process_with_a_line(failures, what):
    """llama.cpp takes no error there, and the weight's values would be lost without a word."""
    done = run_check(failures, what)
    assert done.returncode == -signal.SIGABRT
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeprune: blk.0.attn_q.weight: nobody claimed this weight")


def test_error_codes_become_messages(monkeypatch):
    data = np.zeros(64 * 2 * 34, np.uint8)
    packed = library.PackedMatrix("Q8_0", data, (64, 64))
    calls = {
        "ep_packed_size": lambda: library.PackedMatrix("Q8_0", data, (64, 64)),
        "ep_pack": lambda: library.PackedMatrix("Q8_0", data, (64, 64)),
        "ep_unpack": packed.unpack,
        "ep_matmul": lambda: packed.times(np.ones((2, 64))),
    }
    for name, call in calls.items():
        with monkeypatch.context() as patched:
            code = ctypes.c_size_t(-1).value if name == "ep_packed_size" else -2
            patched.setattr(library.library(), name, lambda *_, code=code: code)
            with pytest.raises(MachineError, match="Out of memory"):
                call()
    report = adapter._Report(exhausted=1)
    monkeypatch.setattr(
        adapter, "_library", lambda: SimpleNamespace(ep_llama_reported=lambda: report)
    )
    with pytest.raises(MachineError, match="1 of 3 sparse weights"):
        adapter.placed(3)


def llama_cpp_source(tag: str) -> Path:
    """llama.cpp's sources as llama-cpp-python's source package holds them, fetched once."""
    folder = cache_folder() / "sources" / f"llama_cpp_python-{tag}"
    if not folder.exists():
        packages = folder.parent / "packages"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
        command += ["--dest", packages, f"llama-cpp-python=={tag}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no source package, so layouts were not checked: {done.stderr[-200:]}")
        with tarfile.open(next(packages.glob(f"llama_cpp_python-{tag}*.tar.gz"))) as archive:
            archive.extractall(folder.parent, filter="data")
    return folder / "vendor" / "llama.cpp" / "ggml"


@pytest.mark.slow
def test_declared_layouts_are_those_of_every_checked_version(tmp_path):
    need("g++")
    assert version("llama-cpp-python") in CHECKED
    for tag in CHECKED:
        ggml = llama_cpp_source(tag)
        command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{LLAMA}", f"-I{ggml / 'include'}"]
        command += [f"-I{ggml / 'src'}", f"-I{ggml / 'src' / 'ggml-cpu'}"]
        source = ROOT / "tests" / "native" / "check_layout.cpp"
        done = subprocess.run([*command, source], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wrong = tmp_path / "llama_internals.h"  # the check must be able to fail
        text = (LLAMA / "llama_internals.h").read_text()
        wrong.write_text(text.replace("kMaxSources = 10", "kMaxSources = 11"))
        done = subprocess.run(
            [*command[:3], f"-I{tmp_path}", *command[3:], source], check=False, capture_output=True
        )
        assert done.returncode != 0
