"""Modules and functions that one reads in one go."""

import ast

import pytest

from tests.support.paths import ROOT

PACKAGES = ("edgeprune", "exporters", "runtime_tests")
LONGEST_MODULE, LONGEST_FUNCTION = 350, 60


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_and_no_function_is_too_long(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        text = path.read_text()
        assert text.count("\n") <= LONGEST_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name}: {lines}"
