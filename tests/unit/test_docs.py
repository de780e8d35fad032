"""README, guides and reference say what the code does."""

import re
import runpy
import shlex
import shutil
from pathlib import Path

import click
import pytest

from edgeprune.cli import cli
from edgeprune.recipe.load import load, resolve
from edgeprune.recipe.schema import command_line_options, defaults
from tests.support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("[gm]*/*.md")),
]
SETTINGS = {*defaults(), "data.task"}


def blocks(page: Path, *languages: str) -> list[str]:
    """Texts of a page's code blocks in some languages; ``""`` is none."""
    parts = re.split(r"^```(.*)\n", page.read_text(), flags=re.MULTILINE)
    fences, codes = parts[1::4], parts[2::4]  # text, opening fence, code, closing fence, text, ...
    return [code for fence, code in zip(fences, codes, strict=True) if fence in languages]


def commands(page: Path) -> list[list[str]]:
    """Words of every `edgeprune` command in a page's code blocks, without comments and pipes."""
    lines = "\n".join(blocks(page, "", "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "edgeprune " in line]
    starts = [words[words.index("edgeprune") + 1 :] for words in found if "edgeprune" in words]
    return [
        words[: next((i for i, word in enumerate(words) if word in ("|", ">")), len(words))]
        for words in starts
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)  # programs that are not here
    for given in commands(page):
        words = [word for word in given if word != "--debug"]
        command, context = cli, click.Context(cli, **cli.context_settings)
        while isinstance(command, click.Group):
            if command.invoke_without_command and (not words or words[0].startswith("-")):
                break
            command = command.get_command(context, words.pop(0))
            assert command, given
            context = click.Context(command, parent=context)
        command.parse_args(context, list(words))
        settings = context.params.get("settings") or ()
        assert {text.partition("=")[0] for text in settings} <= SETTINGS, page.name
        if command.name == "build" and "--recipe" not in words:
            options = {o.path: context.params[o.python_name] for o in command_line_options()}
            resolve(None, settings, options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    inner = [link for link in links if not re.match(r"https?:", link)]
    assert not [link for link in inner if not (page.parent / link).exists()]


CODE = ["benchmarks", "edgeprune", "exporters", "runtime_tests", "tests"]


@pytest.mark.parametrize("folder", CODE)
def test_every_page_that_code_points_to_is_there(folder):
    for path in (ROOT / folder).rglob("*.py"):
        ours = re.sub("ggml-org/ggml, docs/gguf.md", "", path.read_text())
        named = re.findall(r"\bdocs/[\w/-]+\.(?:md|json|svg|png)|CONTRIBUTING.md", ours)
        assert [name for name in named if not (ROOT / name).exists()] == [], path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_of_a_page_exists(page):
    sections = "model|data|pruning|training|artifact|measurement|gates"
    named = re.findall(rf"`(?:--set )?((?:{sections})\.[a-z_.]+)[=`]", page.read_text())
    known = SETTINGS | {"pruning.fusion", "pruning.allocation"}
    files = (".gguf", ".onnx", ".data", ".imatrix")
    assert {name for name in named if not name.endswith(files)} <= known


def test_recipes_of_the_guides_are_valid(tmp_path):
    pages = [ROOT / "docs" / "reference" / "recipe.md", *ROOT.glob("docs/guide/*.md")]
    texts = [
        text
        for page in pages
        for text in blocks(page, "yaml")
        if "task:" in text and "sources:" not in text
    ]
    assert len(texts) > 2
    for text in texts:
        (tmp_path / "recipe.yaml").write_text(text)
        load(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("name", ["recipe", "cli"])
def test_reference_pages_are_those_of_the_code(name):
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert written == generate[f"{name}_page"](), "make docs writes it anew"


def test_the_readme_is_short_and_names_every_command():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 6 * 1024
    assert [verb for verb in cli.list_commands(None) if f"edgeprune {verb}" not in text] == []


def test_the_glossary_is_short():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    glossary = text.partition("## Glossary\n")[2].partition("\n## ")[0].strip().splitlines()
    assert 20 < len(glossary) <= 40
