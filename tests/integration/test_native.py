"""The native library under sanitizers, on ARM, and beside llama.cpp's own headers."""

import signal
import subprocess
import sys

import pytest

from edgeprune.runtime.library import LIBRARY
from tests.support.paths import KERNELS, LLAMA, NATIVE_TESTS
from tests.support.programs import need


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """check_failures.cpp beside the library that Python loads."""
    need("g++")
    if not sys.platform.startswith("linux"):
        pytest.skip("this stands in for a system without memory or threads on Linux alone")
    program = tmp_path_factory.mktemp("failures") / "check"
    command = [
        "g++",
        "-std=c++17",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-rdynamic",
        f"-I{KERNELS}",
        f"-I{LLAMA}",
    ]
    command += [NATIVE_TESTS / "check_failures.cpp", LIBRARY, "-pthread", "-ldl"]
    subprocess.run([*command, f"-Wl,-rpath,{LIBRARY.parent}", "-o", program], check=True)
    return program


def run_check(program, what):
    return subprocess.run([program, what], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "what", ["memory", "threads", "buffers", "loading", "lies", "other thread", "other operations"]
)
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
