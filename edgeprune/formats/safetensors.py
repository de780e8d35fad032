"""The sparsity metadata of a transformers folder: a file of its own beside the weights."""

from pathlib import Path

from edgeprune.formats.metadata import SparsityMetadata, from_json
from edgeprune.support.errors import InputError

METADATA = "edgeprune.json"


def read_folder(folder: Path) -> SparsityMetadata | None:
    """The sparsity metadata of a folder; None if edgeprune did not write it.

    Raises:
        InputError: the metadata is there and makes no sense.
    """
    path = folder / METADATA
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"The sparsity metadata is damaged: {error}.") from None
    return from_json(text)
