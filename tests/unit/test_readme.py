"""The README's commands and names exist."""

import re

from click.testing import CliRunner

from edgeprune.cli import _VERBS, cli
from edgeprune.recipe.schema import _paths, command_line_options
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


def test_every_command_and_flag_of_the_readme_exists():
    flags = {f"--{option.name}" for option in command_line_options()} | {"--recipe", "--set"}
    commands = re.findall(r"^edgeprune (\w+)(.*)$", README, re.MULTILINE)
    assert len(commands) > 6
    for verb, rest in commands:
        assert verb in _VERBS
        if verb in ("build", "plan"):
            assert set(re.findall(r"--\w[\w-]*", rest)) <= flags
    for key in re.findall(r"--set ([\w.]+)=", README):
        assert key in _paths()


def test_every_verb_is_explained():
    output = CliRunner().invoke(cli, ["--help"]).output
    for verb in _VERBS:
        assert verb in output
        assert f"edgeprune {verb}" in README
