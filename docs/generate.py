"""Writes docs/reference/recipe.md and docs/reference/cli.md from the code.

    python docs/generate.py

A test holds the pages against what this writes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click import Group
from click.testing import CliRunner
from pydantic import BaseModel

from edgeprune.cli import cli
from edgeprune.recipe.schema import Recipe, command_line_options

REFERENCE = Path(__file__).parent / "reference"
_WIDTH = 96  # of help texts, in characters

_RECIPE = """\
# Recipe reference

Written by `docs/generate.py` from `edgeprune/recipe/sections.py`; do not edit it by hand.

Every setting of a build has one name, with dots: `training.rank`. It is written in three ways:

```
edgeprune build --task medqa --set training.rank=16 --recover
```

```yaml
data: {task: medqa}
training:
  enabled: true
  rank: 16
```

```yaml
data.task: medqa
training.enabled: true
training.rank: 16
```

A setting with a flag can be given as that flag too. Flags and `--set` win over the recipe file.
`edgeprune recipes validate FILE` lists all mistakes of a file at once.
"""

_CLI = """\
# Command reference

Written by `docs/generate.py` from `edgeprune <command> --help`; do not edit it by hand.
"""


def recipe_page() -> str:
    """Every setting, section by section."""
    flags = {option.path: f"`--{option.name}`" for option in command_line_options()}
    return _RECIPE + "".join(_sections(Recipe, "", flags))


def cli_page() -> str:
    """Every command with its help."""
    parts = [_CLI, _help([])]
    for verb in cli.list_commands(None):
        command = cli.get_command(None, verb)
        parts.append(_help([verb]))
        if isinstance(command, Group):
            parts += [_help([verb, name]) for name in command.commands]
    return "\n".join(parts)


def _sections(section: type[BaseModel], prefix: str, flags: dict[str, str]) -> Iterator[str]:
    plain, inner = [], []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((kind, f"{prefix}{name}."))
        else:
            plain.append(_row(prefix + name, field, flags.get(prefix + name, "")))
    if plain:
        about = (section.__doc__ or "").partition("\n")[0]
        yield f"\n## {prefix.removesuffix('.')}\n\n{about}\n\n"
        yield "| setting | default | flag | meaning |\n| --- | --- | --- | --- |\n"
        yield from plain
    for kind, path in inner:
        yield from _sections(kind, path, flags)


def _row(path: str, field: Any, flag: str) -> str:
    default = "must be given" if field.is_required() else _text(field.default)
    about = (field.description or "").replace("|", "\\|")
    return f"| `{path}` | {default} | {flag} | {about} |\n"


def _text(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        default = ", ".join(default)
    return f"`{default}`" if default not in (None, "", {}) else "–"


def _help(arguments: list[str]) -> str:
    runner = CliRunner()
    found = runner.invoke(
        cli, [*arguments, "--help"], prog_name="edgeprune",
        terminal_width=_WIDTH, max_content_width=_WIDTH,
    )  # fmt: skip
    title = " ".join(["edgeprune", *arguments])
    return f"## {title}\n\n```\n{found.output.rstrip()}\n```\n"


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    (REFERENCE / "recipe.md").write_text(recipe_page(), encoding="utf-8")
    (REFERENCE / "cli.md").write_text(cli_page(), encoding="utf-8")
