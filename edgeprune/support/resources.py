"""Shipped resources: the YAML files of `configs/` (beside the package in a checkout), and rows."""

from pathlib import Path
from typing import Any

from edgeprune.support.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder(kind: str) -> Path:
    """Find the folder of one kind of shipped configuration: ``tasks``, ``devices`` and so on."""
    installed = _PACKAGE / "configs" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / "configs" / kind


def shipped(kind: str) -> dict[str, Path]:
    """Map names to paths of all shipped YAML files of a kind."""
    return {path.stem: path for path in sorted(config_folder(kind).glob("*.yaml"))}


def data_file(name: str) -> Path:
    """Find a file of ``edgeprune/data/shipped``, whose README states the rows' origins."""
    return _PACKAGE / "data" / "shipped" / name


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: the file is missing, not YAML, or not a mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"No such file: {path}.") from None
    except (yaml.YAMLError, ValueError, IsADirectoryError) as error:
        raise InputError(
            f"{path} is not a valid YAML file: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} contains {type(value).__name__}; expected a mapping of names to values."
        )
    return value
