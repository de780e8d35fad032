"""What a user installs: the wheel, built with and without a compiler, used outside the tree."""

import json
import os
import subprocess
import sys
import zipfile

from tests.support.paths import ROOT

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


def test_without_a_compiler_the_package_still_builds(tmp_path):
    wheel = build(tmp_path, CXX="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "libedgeprune" in name]


def test_the_built_wheel_works_from_another_folder(tmp_path, tiny_folder, rows_file):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "-q", str(wheel)], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def installed(*arguments: str):
        return subprocess.run(
            [binaries / "edgeprune", *arguments], cwd=tmp_path, capture_output=True, text=True,
            check=False, env=environment,
        )  # fmt: skip

    assert "Commands" in installed("--help").stdout
    assert "medqa" in installed("tasks").stdout
    assert "medqa-demo" in installed("recipes", "ls").stdout
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"sentence {i}"}) + "\n" for i in range(40)))
    plan = installed(
        "plan", "--model", str(tiny_folder), "--task", str(rows_file), "--general", str(text),
        "--sparsity", "0.5",
    )  # fmt: skip
    assert "zeros in 73,728 weights" in plan.stdout, plan.stderr
    plan = installed("plan", "--model", str(tiny_folder), "--task", "medqa", "--type", "q8_0")
    assert "medqa from shipped medqa.jsonl.xz" in plan.stdout, plan.stderr
    missing = installed("build", "--task", "medqa")
    assert missing.returncode == 4
    assert "pip install 'edgeprune[" in missing.stderr
