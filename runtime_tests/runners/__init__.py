"""Runtimes that run artifacts: one module each, one line here."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.support.errors import InputError
from runtime_tests import devices

if TYPE_CHECKING:
    from runtime_tests.runners.runner import Runner

_FOLDER = "/"


@dataclass(frozen=True)
class Entry:
    """A runtime.

    Attributes:
        runner: class in the module of the entry's name.
        kind: ending of the files that it runs; ``/``: folders.
        gpus: ways of running them on a GPU, whether they are here or not.
        builds_on_gpus: whether a build measures its artifact on GPUs as well: where they run
            another kernel for each pattern, and the file is the same for all of them.
        grammars: whether replies can be held to a grammar.
    """

    runner: str
    kind: str
    gpus: tuple[devices.Gpu, ...]
    builds_on_gpus: bool = False
    grammars: bool = False


RUNNERS = {
    "llamacpp": Entry("LlamaCpp", ".gguf", devices.LLAMA_CPP, grammars=True),
    "onnxruntime": Entry("OnnxRuntime", ".onnx", devices.ONNXRUNTIME, builds_on_gpus=True),
    "transformers": Entry("Transformers", _FOLDER, devices.TORCH),
}


def entry_of(artifact: Path) -> Entry:
    """What runs an artifact, by its ending; a folder is transformers'.

    Raises:
        InputError: nothing does.
    """
    return RUNNERS[_name_of(artifact)]


def open_runner(artifact: Path, threads: int, device: str = "CPU") -> "Runner":
    """Load an artifact into this process.

    Args:
        artifact: file or folder.
        threads: of the runtime.
        device: ``CPU``, or a GPU by its name.

    Raises:
        RuntimeError: the runtime refuses it.
    """
    name = _name_of(artifact)
    module = import_module(f"runtime_tests.runners.{name}")
    runner: Runner = getattr(module, RUNNERS[name].runner)(artifact, threads, device)
    return runner


def _name_of(artifact: Path) -> str:
    kind = _FOLDER if artifact.is_dir() else artifact.suffix
    found = next((name for name, entry in RUNNERS.items() if entry.kind == kind), None)
    if found is None:
        raise InputError(
            f"No runtime runs {artifact}.",
            "Expected a .gguf file, an .onnx file or a transformers folder.",
        )
    return found
