"""What a user installs: the wheel, built with and without a compiler, used outside the tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_THREE_LINES = """
import sys
import llama_cpp
from edgeprune.runtime import enable
status = enable()
model = llama_cpp.Llama(sys.argv[1], n_ctx=128, verbose=False)
print(status.on, bool(model.create_completion("The sun", max_tokens=4)["choices"][0]["text"]))
"""


def build(out, **environment):
    command = [sys.executable, "-m", "build", "--outdir", out, ROOT]  # the wheel from the sdist
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_the_runtime_and_runs_outside_the_tree(tmp_path, real_checkpoint):
    wheel = build(tmp_path)
    assert wheel.name.startswith("edgeprune-")
    assert "-py3-none-any" not in wheel.name
    installed = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", installed, wheel]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", _THREE_LINES, str(real_checkpoint.gguf)],
        env=os.environ | {"PYTHONPATH": str(installed)}, cwd=tmp_path, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\n"


@pytest.mark.slow
def test_without_a_compiler_the_package_still_builds(tmp_path):
    wheel = build(tmp_path, CXX="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "libedgeprune" in name]
