"""GPUs that runtimes can use: which there may be, and why they can't run anything here."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """A way of running artifacts on a GPU.

    Attributes:
        name: what a runner is told, and people read.
        why_not: says why it can't run anything here; empty if it can.
    """

    name: str
    why_not: Callable[[], str]


@dataclass(frozen=True)
class Provider:
    """One of onnxruntime's execution providers.

    Attributes:
        name: as people call it.
        ort: as onnxruntime calls it.
        options: what it is given.
    """

    name: str
    ort: str
    options: dict[str, Any] = field(default_factory=dict)


CPU = Provider("CPU", "CPUExecutionProvider")
# TensorRT looks for 2:4 only where it is told to, and has sparse kernels for half precision.
_PROVIDERS = (
    Provider("CUDA", "CUDAExecutionProvider"),
    Provider(
        "TensorRT",
        "TensorrtExecutionProvider",
        {"trt_sparsity_enable": "True", "trt_fp16_enable": "True"},
    ),
    Provider("DirectML", "DmlExecutionProvider"),
)
_NVIDIA = ("CUDA", "TensorRT")
PROVIDERS = {provider.name: provider for provider in (CPU, *_PROVIDERS)}


def _of_llama_cpp() -> str:
    from llama_cpp import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        return ""
    return "this llama-cpp-python was built without one (its documentation says how)"


def _of_onnxruntime(provider: Provider) -> str:
    import onnxruntime

    if provider.name in _NVIDIA and not shutil.which("nvidia-smi"):
        return "no GPU"
    if provider.ort not in onnxruntime.get_available_providers():
        wheel = (
            "onnxruntime-gpu" if provider.name in _NVIDIA else "onnxruntime-directml, on Windows"
        )
        return f"this onnxruntime has no {provider.name} (pip install {wheel})"
    return ""


def _of_torch() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    return "torch finds none" if shutil.which("nvidia-smi") else "no GPU"


LLAMA_CPP = (Gpu("GPU", _of_llama_cpp),)
ONNXRUNTIME = tuple(Gpu(one.name, partial(_of_onnxruntime, one)) for one in _PROVIDERS)
TORCH = (Gpu("CUDA", _of_torch), Gpu("CUDA 2:4", _of_torch))
