"""Nothing asks which target or pattern it deals with but the folder that is about it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporters
from edgeprune.planning.patterns import UNSTRUCTURED
from edgeprune.support.errors import UsageError
from runtime_tests.runners import RUNNERS
from tests.support.paths import ROOT

NAMES = {*exporters.TARGETS, UNSTRUCTURED.name, "2:4"}
# Where a name may stand as a key or in a comparison, and why.
EXCEPTIONS = {
    "exporters/__init__.py": "the list of targets",
    "runtime_tests/runners/__init__.py": "the list of runners; one is called as a target is",
    "edgeprune/support/extras.py": "Python packages and the extras that install them",
}


def strings(node: ast.expr) -> Iterator[str]:
    """Texts that an expression is or lists."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for part in node.elts:
            yield from strings(part)


def choices(source: str) -> list[tuple[int, str]]:
    """Lines at which a name is compared, matched or a key, and the name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key]
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        found += [
            (getattr(node, "lineno", 0), text)
            for expression in asked
            for text in strings(expression)
            if text in NAMES
        ]
    return found


def test_no_branch_on_the_name_of_a_target_or_a_pattern():
    wrong = []
    for package in ("edgeprune", "exporters", "runtime_tests"):
        for path in sorted((ROOT / package).rglob("*.py")):
            place = path.relative_to(ROOT)
            if str(place) not in EXCEPTIONS and place.parts[:2] not in OWN:
                wrong += [f"{place}:{line} {name}" for line, name in choices(path.read_text())]
    assert not wrong


OWN = {("exporters", target) for target in exporters.TARGETS}


@pytest.mark.parametrize(
    "source",
    [
        'a = 1 if target == "gguf" else 2',
        'a = target in ("gguf", "x")',
        'a = {"onnx": 1}[target]',
        'match target:\n    case "transformers": pass',
        'a = pattern != "2:4"',
        'a = notes["unstructured"]',
    ],
)
def test_a_branch_is_seen(source):
    assert choices(source)


@pytest.mark.parametrize("place", EXCEPTIONS)
def test_every_exception_is_still_needed(place):
    assert choices((ROOT / place).read_text())


@pytest.mark.parametrize("target", exporters.TARGETS)
def test_a_target_says_all_that_others_ask_of_it(target):
    exporter = exporters.get(target)
    assert exporter.name == target
    assert exporter.default_type in exporter.types
    assert not exporter.types[exporter.default_type].mix
    assert RUNNERS[exporter.runner].kind == (Path(exporter.artifact).suffix or "/")
    assert exporter.how_to_use.format(file="here").count("here")
    for kind in exporter.types.values():
        assert kind.keeps_zeros or exporter.types[kind.instead].keeps_zeros


def test_an_unknown_target_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="Unknown target 'ggfu': did you mean gguf"):
        exporters.get("ggfu")
