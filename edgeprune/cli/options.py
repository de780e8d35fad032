"""Options of `build`, `plan` and `ablate`, generated from the recipe's schema."""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of a recipe to a command."""
    from edgeprune.recipe.schema import command_line_options

    command = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help=(
            "Any other setting by its dotted name, such as measurement.eval_rows=500. May be "
            "repeated. docs/reference/recipe.md lists all settings."
        ),
    )(command)  # fmt: skip
    command = click.option(
        "--recipe", "recipe_file", metavar="FILE",
        help="Recipe file, or the name of a shipped recipe. Other options override it.",
    )(command)  # fmt: skip
    for option in reversed(list(command_line_options())):
        kind = _plain_type(option.field.annotation)
        text, default = option.field.description or "", option.field.get_default()
        if isinstance(default, str | int | float) and default != "":
            text += f" [{default}]"
        command = click.option(
            f"--{option.name}", option.python_name, type=kind, default=None,
            help=text[:1].upper() + text[1:], is_flag=kind is bool,
        )(command)  # fmt: skip
    return command


def take_recipe(values: dict[str, Any]) -> Any:
    """Remove the recipe options from a command's arguments, and resolve them to a recipe."""
    from edgeprune.recipe.load import resolve
    from edgeprune.recipe.schema import command_line_options

    file, settings = values.pop("recipe_file"), values.pop("settings")
    options = {option.path: values.pop(option.python_name) for option in command_line_options()}
    return resolve(file, settings, options)


def _plain_type(annotation: Any) -> Any:
    """Return the type that click converts to, inside optional and annotated types."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return click.Choice(inner)
    return _plain_type(inner[0]) if inner else annotation
