"""What a machine counts: the memory of this process, the energy of processors and GPUs."""

import sys
from pathlib import Path
from typing import Any

import psutil

_ZONES = Path("/sys/class/powercap")


def peak_memory(process: int | None = None) -> int:
    """The most memory a process has held resident, in bytes.

    Args:
        process: its number; None: this one. Outside Linux, of others what they hold now.
    """
    status = Path(f"/proc/{process or 'self'}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if process:
        return int(psutil.Process(process).memory_info().rss)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def joules(device: str = "CPU") -> float | None:
    """Read a device's energy counter; None if it cannot be read.

    Args:
        device: ``CPU`` for all processor packages (RAPL), else the first NVIDIA GPU (NVML, which
            the package nvidia-ml-py reads).
    """
    return _processor() if device == "CPU" else _gpu()


def _processor() -> float | None:
    total, found = 0, False
    for zone in _ZONES.glob("intel-rapl:[0-9]"):
        try:
            total += int((zone / "energy_uj").read_text())
            found = True
        except (OSError, ValueError):
            return None  # root alone may read it on most machines
    return total / 1e6 if found else None


def _gpu() -> float | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByIndex(0)
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except pynvml.NVMLError:
        return None
