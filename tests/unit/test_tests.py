"""Where tests stand, and what they may share."""

import ast

import pytest

from tests.support.paths import ROOT
from tests.support.sources import imports_of

TESTS = ROOT / "tests"
FOLDERS = {"unit", "integration", "slow"}
# Unit tests start no process and load neither a runtime nor the real model.
NOT_IN_UNIT = (
    "subprocess", "multiprocessing", "llama_cpp", "onnxruntime", "runtime_tests.child",
    "tests.support.processes", "tests.support.runtimes", "tests.support.llama",
)  # fmt: skip
PACKAGES = {path.name for path in (ROOT / "edgeprune").iterdir() if path.is_dir()}


def test_no_test_imports_another():
    for path in TESTS.rglob("*.py"):
        for name in imports_of(path):
            assert not name.startswith("tests.") or name.startswith("tests.support."), path
        if path.is_relative_to(TESTS / "support"):
            assert not path.name.startswith("test_")


def test_tests_stand_in_a_folder_that_says_what_they_take():
    for path in TESTS.rglob("test_*.py"):
        assert path.relative_to(TESTS).parts[0] in FOLDERS, path


@pytest.mark.parametrize("path", sorted((TESTS / "unit").rglob("*.py")), ids=lambda p: p.name)
def test_unit_tests_stay_in_their_process(path):
    wrong = [name for name in imports_of(path) if name.startswith(NOT_IN_UNIT)]
    assert not wrong
    folder = path.relative_to(TESTS / "unit").parts[0]
    assert folder.endswith(".py") or folder in PACKAGES | {"exporters", "runtime_tests"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.arg):
            assert node.arg != "dense_f32"
