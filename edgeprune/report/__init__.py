"""What people read of a build: an offline page, a model card, a page that compares builds."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.manifest import Manifest
    from edgeprune.regression.history import Entry

FILES = ("report.html", "README.md")


def write(folder: Path, manifest: "Manifest", history: "Sequence[Entry]" = ()) -> None:
    """Write a build's page and its model card, which has the form that the hub wants.

    Args:
        folder: of the build.
        manifest: of the build.
        history: of its checks, for the page.
    """
    from edgeprune.report import card, page
    from edgeprune.support.files import write_text

    write_text(folder / "report.html", page.render(manifest, history))
    write_text(folder / "README.md", card.render(manifest))
