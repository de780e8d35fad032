"""Read ``config.json`` of a transformers folder, for all exporters."""

import json
from collections.abc import Iterable
from pathlib import Path

from edgeprune.models.families import Config, Family
from edgeprune.support.errors import InputError


def load_config(folder: Path) -> Config:
    """Read the configuration of any model; it must have a ``model_type``.

    Raises:
        InputError: the file is missing or invalid.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        named = isinstance(config["model_type"], str)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error!r}.") from None
    if not named:
        raise InputError(f"{path} has no model_type.")
    return config


def load_known_config(folder: Path, known: dict[str, Family], target: str) -> tuple[Config, Family]:
    """Read the configuration of a model of a known family.

    Args:
        folder: the transformers folder.
        known: families that the exporter supports, by ``model_type``.
        target: name of the exporter.

    Raises:
        InputError: the file is missing or invalid, or its family is not supported.
    """
    config = load_config(folder)
    if (kind := config["model_type"]) not in known:
        raise InputError(
            f"The {target} exporter does not support the architecture '{kind}'.",
            f"Supported: {', '.join(sorted(known))}.",
        )
    return config, known[kind]


def require(config: Config, names: Iterable[str], folder: Path) -> None:
    """Reject a configuration that lacks some names.

    Raises:
        InputError: a name is missing; the message lists all of them.
    """
    if missing := [name for name in names if name not in config]:
        raise InputError(f"{folder / 'config.json'} lacks {', '.join(missing)}.")


def sliding_layers(config: Config) -> list[bool]:
    """Find the layers whose attention is limited to a window.

    Raises:
        InputError: there are such layers, but no window is given.
    """
    window = config.get("sliding_window")
    if "layer_types" in config:
        slides = [kind == "sliding_attention" for kind in config["layer_types"]]
    else:
        every = bool(window) and config.get("use_sliding_window", True)
        slides = [every] * config["num_hidden_layers"]
    if any(slides) and not window:
        raise InputError("config.json has layers with sliding windows, but no sliding_window.")
    return slides
