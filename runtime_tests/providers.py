"""onnxruntime's execution providers for GPUs: where they can run a model, and why they can't."""

import shutil
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Provider:
    """An execution provider.

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
GPUS = (
    Provider("CUDA", "CUDAExecutionProvider"),
    Provider(
        "TensorRT",
        "TensorrtExecutionProvider",
        {"trt_sparsity_enable": "True", "trt_fp16_enable": "True"},
    ),
    Provider("DirectML", "DmlExecutionProvider"),
)
_NVIDIA = ("CUDA", "TensorRT")
BY_NAME = {provider.name: provider for provider in (CPU, *GPUS)}


def why_not(provider: Provider) -> str:
    """Why a provider can't run anything here; empty if it can."""
    import onnxruntime

    if provider.name in _NVIDIA and not shutil.which("nvidia-smi"):
        return "no GPU"
    if provider.ort not in onnxruntime.get_available_providers():
        wheel = (
            "onnxruntime-gpu" if provider.name in _NVIDIA else "onnxruntime-directml, on Windows"
        )
        return f"this onnxruntime has no {provider.name} (pip install {wheel})"
    return ""
