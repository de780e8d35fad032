"""The GPUs for each kind of artifact."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime_tests import providers


@dataclass(frozen=True)
class Gpu:
    """A way of running artifacts on a GPU.

    Attributes:
        name: name for runners and for messages.
        why_not: says why it cannot run here; empty if it can.
    """

    name: str
    why_not: Callable[[], str]


def _llama_cpp() -> str:
    from llama_cpp import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        return ""
    return "llama-cpp-python was built without GPU support (see its documentation)"


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    return "torch finds no GPU" if shutil.which("nvidia-smi") else "no GPU"


def _of_onnxruntime(provider: providers.Provider) -> Gpu:
    return Gpu(provider.name, lambda: providers.why_not(provider))


_GPUS = {
    ".gguf": [Gpu("GPU", _llama_cpp)],
    ".onnx": [_of_onnxruntime(provider) for provider in providers.GPUS],
    "/": [Gpu("CUDA", _torch), Gpu("CUDA 2:4", _torch)],
}


def gpus(artifact: Path) -> list[Gpu]:
    """List the GPUs for this kind of artifact, whether available here or not."""
    return _GPUS[kind(artifact)]


def kind(artifact: Path) -> str:
    """Return the kind of an artifact: ``.gguf``, ``.onnx``, or ``/`` for a transformers folder."""
    return "/" if artifact.is_dir() else artifact.suffix
