"""Scripts in `benchmarks/` start, name nothing that is gone, and give the page of their rows."""

import ast
import json
import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.paths import ROOT
from tests.support.sources import imports_of

BENCHMARKS = ROOT / "benchmarks"
MODULES = [p for p in sorted(BENCHMARKS.rglob("*.py")) if p.name != "__init__.py"]
SCRIPTS = [path for path in MODULES if "__main__" in path.read_text()]
OURS = ("edgeprune", "exporters", "runtime_tests", "benchmarks")


def name_of(path: Path) -> str:
    return str(path.relative_to(BENCHMARKS))


def main_of(path: Path) -> Callable[[], Any]:
    return runpy.run_path(str(path))["main"]


def is_there(dotted: str) -> bool:
    """Whether a module, or a name of a module, exists; nothing but packages is imported."""
    module, _, name = dotted.rpartition(".")
    if not module:
        return find_spec(name) is not None
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return False
    if spec is None or spec.origin is None:
        return False
    if spec.submodule_search_locations and find_spec(dotted):
        return True
    nodes = list(ast.walk(ast.parse(Path(spec.origin).read_text())))
    known = {n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.alias)}
    return name in known | {n.id for n in nodes if isinstance(n, ast.Name)}


def test_scripts_are_found():
    assert len(SCRIPTS) > 15


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_script_shows_its_help(path, monkeypatch, capsys):
    main = main_of(path)
    if isinstance(main, click.Command):
        result = CliRunner().invoke(main, ["--help"])
        assert result.exit_code == 0, result.output
        shown = result.output
    else:
        monkeypatch.setattr(sys, "argv", [path.name, "--help"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        shown = capsys.readouterr().out
    assert shown.lower().startswith("usage: ")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_import_exists(path):
    """Those inside functions too, which `--help` never reaches."""
    names = [name for name in imports_of(path) if name.startswith(OURS)]
    assert [name for name in names if not is_there(name)] == []


def test_a_removed_name_is_seen():
    assert is_there("edgeprune.pipeline.job.open_job")
    assert is_there("edgeprune.Recipe")
    for gone in ("edgeprune.stages.prune_stage", "edgeprune.pipeline.job.storage", "edgeprune.x"):
        assert not is_there(gone)


def test_every_way_of_recovery_is_a_valid_recipe():
    from benchmarks import recovery

    for task, zeros, ways in recovery._LINES:
        for way in ways:
            recipe = recovery._recipe(task, zeros, way, "2m", 150, "wikitext2")
            assert recipe.training.enabled == (way not in ("dense", "one-shot"))
            assert (recipe.pruning.sparsity == 0) == way.startswith("dense")


def test_every_training_at_equal_bytes_is_a_valid_recipe():
    from benchmarks import equal_bytes
    from exporters.gguf.types import TYPES

    names = [contender.name for contender in equal_bytes._CONTENDERS]
    assert len(set(names)) == len(names)
    for contender in equal_bytes._CONTENDERS:
        recipe = equal_bytes._recipe(contender, "arc_easy", 30, 200)
        assert recipe.goal.choose == contender.ours
        assert recipe.training.enabled == (contender.name != "untrained")
        assert recipe.training.steps == (30 if recipe.training.enabled else None)
        for kind, embedding in contender.files:
            assert kind in TYPES
            assert embedding == "auto" or embedding in TYPES


def test_recoverys_page_is_that_of_its_rows():
    from benchmarks import recovery

    records = json.loads((ROOT / recovery._RECORDS).read_bytes())
    page = (ROOT / "docs" / "measured" / "recovery.md").read_text()
    assert recovery._page(records) == page
