"""What the extras of pyproject.toml install is what the code can work with."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from edgeprune.runtime.llamacpp import adapter
from edgeprune.support.errors import MachineError
from tests.support.paths import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def neighbours(version: str) -> list[str]:
    """Releases that come just before and after a version, or some day."""
    major, minor, patch = Version(version).release
    return [
        *(f"{major}.{minor}.{p}" for p in range(max(0, patch - 3), patch + 4)),
        f"{major}.{minor + 1}.0",
        f"{major + 1}.0.0",
    ]


@pytest.mark.parametrize("extra", ["gguf", "serve"])
def test_the_extra_installs_a_checked_version_and_no_other(extra):
    (asked,) = map(Requirement, EXTRAS[extra])
    assert asked.name == "llama-cpp-python"
    near = {version for checked in adapter.CHECKED for version in neighbours(checked)}
    assert {version for version in near if version in asked.specifier} == set(adapter.CHECKED)


def test_an_older_version_is_told_what_to_install(monkeypatch):
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr(adapter, "version", lambda _name: "0.3.9")
    with pytest.raises(
        MachineError, match=r"0\.3\.9 is .* pip install 'llama-cpp-python==0\.3\.36'"
    ):
        adapter.check()
