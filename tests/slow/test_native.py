"""The native library under sanitizers, on ARM, and beside llama.cpp's own headers."""

import ctypes
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from itertools import count, takewhile
from pathlib import Path

import pytest
from llama_cpp import llama_cpp

from edgeprune.runtime.library import LIBRARY
from edgeprune.runtime.llamacpp.adapter import CHECKED
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama
from edgeprune.support.files import cache_folder
from tests.support.paths import KERNELS, LLAMA, NATIVE_TESTS
from tests.support.programs import need

X86 = {
    "isa_avx2.cpp": ["-mavx2", "-mfma", "-mf16c", "-mpopcnt"],
    "isa_avx512.cpp": [
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx512vbmi", "-mavx512vbmi2",
        "-mpopcnt",
    ],
}  # fmt: skip


ARM = {"isa_neon.cpp": ["-march=armv8.2-a+dotprod"]}


def compile_check(compiler, folder, flags, per_file):
    """Build check_kernels.cpp with the library's own sources."""
    objects = []
    common = ("kernels", "pack", "packed_file", "row", "isa_portable")
    sources = [*(f"{name}.cpp" for name in common), *per_file]
    for source in [*(KERNELS / name for name in sources), NATIVE_TESTS / "check_kernels.cpp"]:
        out = folder / f"{source.stem}.o"
        command = [compiler, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        command += ["-ffp-contract=off", *flags]
        command += [*per_file.get(source.name, []), f"-I{KERNELS}", "-c", source, "-o", out]
        subprocess.run(command, check=True)
        objects.append(out)
    program = folder / "check"
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", program], check=True)
    return program


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sanitizers are set up for Linux")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_under_sanitizers(tmp_path, sanitizer):
    need("g++")
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = compile_check("g++", tmp_path, flags, X86)
    done = subprocess.run([program, "4"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable" in done.stdout


def test_kernels_on_arm(tmp_path):
    """Cross-compiled, and run by an emulator."""
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = compile_check("aarch64-linux-gnu-g++", tmp_path, ["-static"], ARM)
    command = ["qemu-aarch64", "-cpu", "max", program, "3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kernels neon portable" in done.stdout


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


def test_declared_layouts_are_those_of_every_checked_version(tmp_path):
    need("g++")
    assert version("llama-cpp-python") in CHECKED
    for tag in CHECKED:
        ggml = llama_cpp_source(tag)
        command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{LLAMA}", f"-I{ggml / 'include'}"]
        command += [f"-I{ggml / 'src'}", f"-I{ggml / 'src' / 'ggml-cpu'}"]
        source = NATIVE_TESTS / "check_layout.cpp"
        done = subprocess.run([*command, source], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wrong = tmp_path / "llama_internals.h"  # the check must be able to fail
        text = (LLAMA / "llama_internals.h").read_text()
        wrong.write_text(text.replace("kMaxSources = 10", "kMaxSources = 11"))
        done = subprocess.run(
            [*command[:3], f"-I{tmp_path}", *command[3:], source], check=False, capture_output=True
        )
        assert done.returncode != 0


def library_of(sources, flags, out):
    """Build C++ sources of the llama.cpp adapter into a library or a program."""
    command = ["g++", "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run([*command, *sources, "-pthread", "-ldl", "-o", out], check=True)
    return out


@pytest.mark.parametrize(
    ("ours", "theirs", "fault"),
    [
        ("", "", None),
        ("kMaxSources = 10", "kMaxSources = 12", b"the size of a tensor"),
        ("kMaxName = 64", "kMaxName = 72", b"the size of a tensor"),
        ("Tensor *view_src;\n    size_t view_offs;", "size_t view_offs;\n    Tensor *view_src;",
         b"the fields of a tensor"),
        ("BufferType *buft;\n    void *context;", "void *context;\n    BufferType *buft;",
         b"the fields of a buffer"),
        ("bool (*is_host)(BufferType *);", "bool (*is_host)(BufferType *);\n    void *more;",
         b"the fields of a buffer type"),
    ],
)  # fmt: skip
def test_a_llama_cpp_with_other_layouts_is_seen(tmp_path, ours, theirs, fault):
    """Here the adapter expects another one than is installed."""
    need("g++")
    text = (LLAMA / "llama_internals.h").read_text()
    assert ours in text
    (tmp_path / "llama_internals.h").write_text(text.replace(ours, theirs, 1))
    for name in ("functions.h", "llama_adapter.h", "self_check.cpp"):
        (tmp_path / name).write_bytes((LLAMA / name).read_bytes())
    flags = ["-shared", "-fPIC", f"-I{KERNELS}", f"-I{tmp_path}"]
    check = library_of([tmp_path / "self_check.cpp"], flags, tmp_path / "check.so")
    found = ctypes.CDLL(str(check))
    found.ep_llama_needs.restype = found.ep_llama_fault.restype = ctypes.c_char_p
    names = takewhile(lambda name: name is not None, map(found.ep_llama_needs, count()))
    addresses = [
        ctypes.cast(getattr(llama_cpp._lib, name.decode()), ctypes.c_void_p).value for name in names
    ]
    assert found.ep_llama_fault((ctypes.c_void_p * len(addresses))(*addresses)) == fault


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the plug-in is for Linux alone")
def test_damaged_files_do_the_plug_in_no_harm(tmp_path):
    need("g++")
    path = tmp_path / "model.gguf"
    write_random_llama(path, Sizes(("Q8_0", "Q4_0", "Q4_0:2+mask", "F16")), 0.5)
    names = ("plugin/gguf_header", "plugin/open_models", "load", "placing")
    sources = [*(LLAMA / f"{name}.cpp" for name in names), NATIVE_TESTS / "check_plugin.cpp"]
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += [f"-I{KERNELS}", f"-I{LLAMA}", f"-Wl,-rpath,{LIBRARY.parent}"]
    program = library_of([*sources, LIBRARY], flags, tmp_path / "check")
    environment = os.environ | {"EDGEPRUNE_LAYOUT": "sparse"}
    done = subprocess.run(
        [program, path, "5000"], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "tensors, fewer in" in done.stdout
