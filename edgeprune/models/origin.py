"""A checkpoint's origin, license and languages, as it states them."""

from dataclasses import dataclass
from typing import Any

import yaml

from edgeprune.models.checkpoint import Checkpoint, locate
from edgeprune.models.packaged import PACKAGED
from edgeprune.support.errors import InputError

_HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class Origin:
    """Facts that must be passed on with a derived model.

    Attributes:
        hub_id: the model's hub id; empty if it is not known to be on the hub.
        license: identifier in the hub's terms; empty where none is stated.
        license_name: name of a license that has no identifier on the hub.
        license_link: URL of the license text.
        languages: language codes.
    """

    hub_id: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    languages: tuple[str, ...] = ()


def origin(checkpoint: Checkpoint) -> Origin:
    """Read the origin from the GGUF file's ``general.*`` keys, or from the folder's model card.

    Raises:
        InputError: the model card's header is not YAML.
    """
    said = _of_gguf(checkpoint) if checkpoint.gguf else _of_folder(checkpoint)
    languages = said["languages"] or []
    return Origin(
        hub_id=_hub_id(checkpoint.source, str(said["url"] or "")),
        license=str(said["license"] or ""),
        license_name=str(said["license_name"] or ""),
        license_link=str(said["license_link"] or ""),
        languages=tuple(map(str, [languages] if isinstance(languages, str) else languages)),
    )


def _hub_id(source: str, url: str) -> str:
    if source in PACKAGED:
        return PACKAGED[source].hub_id
    if locate(source)[0] == "hub":
        return source
    return url.removeprefix(_HUB).strip("/") if url.startswith(_HUB) else ""


def _of_gguf(checkpoint: Checkpoint) -> dict[str, Any]:
    from edgeprune.formats.gguf.file import open_gguf

    assert checkpoint.gguf
    file = open_gguf(checkpoint.gguf)
    return {
        "url": file.get("general.repo_url"),
        "license": file.get("general.license"),
        "license_name": file.get("general.license.name"),
        "license_link": file.get("general.license.link"),
        "languages": file.get("general.languages"),
    }


def _of_folder(checkpoint: Checkpoint) -> dict[str, Any]:
    from gguf import Metadata

    try:
        card = Metadata.load_model_card(checkpoint.folder)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(
            f"The header of {checkpoint.folder / 'README.md'}, the model card, is not YAML.",
            "Fix the header or remove the file: edgeprune reads the license from it.",
        ) from None
    return {
        "url": None,
        "license": card.get("license"),
        "license_name": card.get("license_name"),
        "license_link": card.get("license_link"),
        "languages": card.get("language") or card.get("languages"),
    }
