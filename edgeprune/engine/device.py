"""The device and the type that the arithmetic uses."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from edgeprune.support.errors import MachineError


def pick_device(name: str) -> torch.device:
    """Choose a device: ``auto`` is CUDA when present, else the CPU.

    Raises:
        MachineError: CUDA was asked for and is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(f"--device {name}: torch finds no CUDA device.", "Use --device cpu.")
    return torch.device(name)


def compute_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where its matrix products are faster than float32's, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


@contextlib.contextmanager
def on_device(model: Any, device: torch.device) -> Iterator[None]:
    """Move a whole model to a device for a while; the device's memory must hold all weights.

    The original weights stay in place, so nothing is copied back; changes made on the device are
    lost.
    """
    home = {tensor: tensor.data for tensor in (*model.parameters(), *model.buffers())}
    try:
        for tensor, data in home.items():
            tensor.data = data.to(device)
        yield
    finally:
        for tensor, data in home.items():
            tensor.data = data
