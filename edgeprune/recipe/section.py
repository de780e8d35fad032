"""What every section of a recipe is made with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def flag(default: Any, description: str, name: str = "", **limits: Any) -> Any:
    """Define a field that is also a command-line option.

    Args:
        default: the default value; ``...``: the field is required.
        description: the text for ``--help``.
        name: name of the option without leading dashes; by default the field's name.
        limits: further arguments of pydantic's ``Field``.
    """
    return Field(default, description=description, json_schema_extra={"option": name}, **limits)


class Section(BaseModel):
    """A group of settings. Unknown names are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
