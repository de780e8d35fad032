"""Who may import whom (DESIGN.md, "Layout")."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MODEL_LIBRARIES = ("transformers", "accelerate", "llama_cpp", "edgeprune.models")

# files -> prefixes that must not be imported
FORBIDDEN = {
    "edgeprune/pruning/methods/**/*.py": (*MODEL_LIBRARIES, "edgeprune.engine", "exporters"),
    "edgeprune/pruning/fusion.py": (*MODEL_LIBRARIES, "edgeprune.engine", "exporters"),
    "edgeprune/pruning/masks.py": (*MODEL_LIBRARIES, "edgeprune.engine", "exporters"),
    "edgeprune/models/**/*.py": ("edgeprune.data", "edgeprune.engine", "exporters"),
    "edgeprune/quantization/**/*.py": (*MODEL_LIBRARIES, "edgeprune.engine", "exporters"),
    "edgeprune/runtime/**/*.py": ("edgeprune.engine", "edgeprune.models", "exporters"),
    "edgeprune/formats/**/*.py": ("edgeprune.engine", "edgeprune.models", "exporters"),
    "edgeprune/recovery/**/*.py": ("edgeprune.recipe", "exporters", "runtime_tests"),
    "edgeprune/report/**/*.py": ("torch", "edgeprune.engine", "exporters", "runtime_tests"),
    "edgeprune/regression/**/*.py": ("torch", "edgeprune.engine", "exporters"),
    "exporters/**/*.py": ("runtime_tests",),
    "runtime_tests/**/*.py": ("exporters",),
}
# The two outer packages see nothing else of edgeprune. Families are plain data that pruning and
# both exporters must agree on; they import no model library (test_families.py).
ALLOWED = (
    "edgeprune.models.families",
    "edgeprune.sparsity",
    "edgeprune.quantization.scales",
    "edgeprune.plan.grid",
    "edgeprune.runtime",
    "edgeprune.support.errors",
    "edgeprune.support.extras",
    "edgeprune.support.files",
    "edgeprune.support.environment",
    "edgeprune.models.opening",
)


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def starts_with(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_arrow_points_the_wrong_way(pattern):
    files = sorted(ROOT.glob(pattern))
    assert files
    for path in files:
        wrong = [name for name in imports_of(path) if starts_with(name, FORBIDDEN[pattern])]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", ["exporters", "runtime_tests"])
def test_outer_packages_see_only_sparsity_and_errors(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = [
            name
            for name in imports_of(path)
            if starts_with(name, ("edgeprune",)) and not starts_with(name, ALLOWED)
        ]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_heavy_libraries_are_not_imported_at_the_command_line():
    for path in sorted((ROOT / "edgeprune" / "cli").glob("*.py")):
        top = [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in top
            for alias in node.names
        ]
        heavy = (
            "torch",
            "transformers",
            "numpy",
            "gguf",
            "pydantic",
            "matplotlib",
            "edgeprune.engine",
        )
        assert not [name for name in names if starts_with(name, heavy)], path.name
