"""Who may import whom: the order of the folders is stated here, once."""

from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.sources import first_imports_of, imports_of

# edgeprune's folders from top to bottom: each imports those below it and none above.
ORDER = [
    "cli", "experiments", "pipeline", "report", "regression", "manifest", "recipe", "recovery",
    "engine", "data", "quantization", "pruning", "models", "runtime", "planning", "formats",
    "support",
]  # fmt: skip
# Two packages beside it, each with its floor, all that it may see of edgeprune, and the folders
# that may see it.
BESIDE = {
    # Exporters turn a plan and weights into a file: what weights are and how files look, nothing of
    # how they were chosen.
    "exporters": (
        {"models", "runtime", "planning", "formats", "quantization", "support"},
        # a target names its types, and what a report says of it
        {"cli", "experiments", "pipeline", "recipe", "report"},
    ),
    # A measurement opens an artifact as any user would, and knows nothing of where it came from.
    "runtime_tests": (
        {"formats.chat", "models.opening", "runtime", "support"},
        {"cli", "pipeline", "regression"},
    ),
}
HEAVY = (
    "torch", "transformers", "numpy", "gguf", "pydantic", "matplotlib", "edgeprune.engine",
)  # fmt: skip


def folder_of(path: Path) -> str:
    """Its place in the order; the package's own front door stands above all."""
    package, *inside = path.relative_to(ROOT).parts
    return inside[0] if package == "edgeprune" and len(inside) > 1 else package


def starts_with(name: str, prefixes: set[str] | tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def allowed(folder: str, name: str) -> bool:
    """Whether a file in a folder may import something."""
    package, _, rest = name.partition(".")
    if package in BESIDE and package != folder:
        return folder in BESIDE[package][1]
    if package != "edgeprune" or folder == "edgeprune":
        return True
    if folder in BESIDE:
        return starts_with(rest, BESIDE[folder][0])
    target = rest.partition(".")[0]
    return target in ORDER and ORDER.index(target) >= ORDER.index(folder)


def test_every_import_runs_downward():
    folders = {path.name for path in (ROOT / "edgeprune").iterdir() if path.is_dir()}
    assert folders - {"__pycache__", "configs"} == set(ORDER)
    for package in ("edgeprune", *BESIDE):
        for path in sorted((ROOT / package).rglob("*.py")):
            wrong = [name for name in imports_of(path) if not allowed(folder_of(path), name)]
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models", "edgeprune.engine.Pruning"),
        ("engine", "exporters.get"),
        ("exporters", "edgeprune.recipe.Recipe"),
        ("exporters", "runtime_tests.run"),
        ("runtime_tests", "exporters.get"),
        ("runtime_tests", "edgeprune.models.checkpoint"),
        ("report", "edgeprune.Recipe"),
    ],
)
def test_an_import_that_runs_upward_is_seen(folder, name):
    assert not allowed(folder, name)


def test_modules_stand_in_folders():
    loose = {path.name for path in (ROOT / "edgeprune").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_heavy_libraries_are_not_imported_at_the_command_line():
    for path in sorted((ROOT / "edgeprune" / "cli").glob("*.py")):
        assert not [name for name in first_imports_of(path) if starts_with(name, HEAVY)], path
