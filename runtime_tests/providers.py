"""onnxruntime's execution providers for GPUs, and their availability."""

import shutil
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: name for messages.
        ort: onnxruntime's name.
        options: provider options.
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
    """Say why a provider cannot run here; empty if it can."""
    import onnxruntime

    if provider.name in _NVIDIA and not shutil.which("nvidia-smi"):
        return "no GPU"
    if provider.ort not in onnxruntime.get_available_providers():
        wheel = (
            "onnxruntime-gpu" if provider.name in _NVIDIA else "onnxruntime-directml, on Windows"
        )
        return f"the installed onnxruntime lacks {provider.name} (pip install {wheel})"
    return ""
