"""GPUs that an artifact can be run on: one list for each kind of artifact."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime_tests import providers


@dataclass(frozen=True)
class Gpu:
    """A way of running artifacts on a GPU.

    Attributes:
        name: what a runner is told, and people read.
        why_not: says why it can't run anything here; empty if it can.
    """

    name: str
    why_not: Callable[[], str]


def _llama_cpp() -> str:
    from llama_cpp import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        return ""
    return "this llama-cpp-python was built without one (its documentation says how)"


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    return "torch finds none" if shutil.which("nvidia-smi") else "no GPU"


def _of_onnxruntime(provider: providers.Provider) -> Gpu:
    return Gpu(provider.name, lambda: providers.why_not(provider))


_GPUS = {
    ".gguf": [Gpu("GPU", _llama_cpp)],
    ".onnx": [_of_onnxruntime(provider) for provider in providers.GPUS],
    "/": [Gpu("CUDA", _torch), Gpu("CUDA 2:4", _torch)],
}


def gpus(artifact: Path) -> list[Gpu]:
    """Those that run this kind of artifact, whether they are here or not."""
    return _GPUS[kind(artifact)]


def kind(artifact: Path) -> str:
    """``.gguf``, ``.onnx``, or ``/`` for a transformers folder."""
    return "/" if artifact.is_dir() else artifact.suffix
