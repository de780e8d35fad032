"""What people read of a build: an offline page, a model card, a page that compares builds."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.manifest import Manifest

FILES = ("report.html", "README.md")


def write(folder: Path, manifest: "Manifest") -> None:
    """Write a build's page and its model card, which has the form that the hub wants."""
    from edgeprune.report import card, page
    from edgeprune.support.files import write_text

    write_text(folder / "report.html", page.render(manifest))
    write_text(folder / "README.md", card.render(manifest))
