"""``config.json`` of a transformers folder, as every exporter reads it."""

import json
from collections.abc import Iterable
from pathlib import Path

from edgeprune.models.families import Config, Family
from edgeprune.support.errors import InputError


def load_config(folder: Path) -> Config:
    """Read the configuration of a model of any kind; it names its ``model_type``.

    Raises:
        InputError: there is none.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        named = isinstance(config["model_type"], str)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} can't be read: {error!r}.") from None
    if not named:
        raise InputError(f"{path} names no model_type.")
    return config


def load_known_config(folder: Path, known: dict[str, Family], target: str) -> tuple[Config, Family]:
    """Read the configuration of a model of a known family.

    Args:
        folder: the transformers folder.
        known: families that the exporter knows, by ``model_type``.
        target: what the exporter is called.

    Raises:
        InputError: there is none, or its family is not known.
    """
    config = load_config(folder)
    if (kind := config["model_type"]) not in known:
        raise InputError(
            f"The {target} exporter doesn't know the architecture '{kind}'.",
            f"It knows: {', '.join(sorted(known))}.",
        )
    return config, known[kind]


def require(config: Config, names: Iterable[str], folder: Path) -> None:
    """Refuse a configuration that lacks some names.

    Raises:
        InputError: naming them.
    """
    if missing := [name for name in names if name not in config]:
        raise InputError(f"{folder / 'config.json'} lacks {', '.join(missing)}.")


def sliding_layers(config: Config) -> list[bool]:
    """For each layer, whether its attention reaches no further than a window.

    Raises:
        InputError: some do, and no window is given.
    """
    window = config.get("sliding_window")
    if "layer_types" in config:
        slides = [kind == "sliding_attention" for kind in config["layer_types"]]
    else:
        every = bool(window) and config.get("use_sliding_window", True)
        slides = [every] * config["num_hidden_layers"]
    if any(slides) and not window:
        raise InputError("config.json has windows, but no sliding_window.")
    return slides
