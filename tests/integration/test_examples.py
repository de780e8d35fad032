"""The scripts in `examples/` run as they stand, offline, on a tiny model."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / name, *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, check=False
    )


def test_a_build_and_its_copy_are_compared(tiny_folder, tmp_path):
    made = run("build.py", tiny_folder, "old", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "pruned:" in made.stdout
    assert made.stdout.endswith("old/model.gguf\n")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    compared = run("gate.py", "old", "new", cwd=tmp_path)
    assert compared.stdout.splitlines()[-1] in ("held", "unclear", "regressed"), compared.stderr
    assert "held      accuracy" in compared.stdout
    assert compared.returncode == compared.stdout.endswith("regressed\n")


def test_a_model_is_pruned_in_memory(tiny_folder, tmp_path):
    done = run("prune_model.py", tiny_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(50.0%)" in done.stdout
    assert "Question: What is aspirin for?" in done.stdout


def test_examples_are_short():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path
