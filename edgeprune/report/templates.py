"""Templates, filled in."""

from pathlib import Path
from typing import Any

from edgeprune.report.words import size_text

_FOLDER = Path(__file__).with_name("templates")


def fill(name: str, **values: Any) -> str:
    """A template of this package with its values; escaped where it is HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = size_text
    return environment.get_template(name).render(**values)
