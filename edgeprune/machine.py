"""What this machine is, for the record that goes with every measurement."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = (
    "edgeprune",
    "torch",
    "transformers",
    "gguf",
    "llama-cpp-python",
    "onnxruntime",
    "numpy",
)


def describe() -> dict[str, Any]:
    """Processor, memory, operating system and library versions."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def surroundings() -> dict[str, Any]:
    """What else decides how fast things run, as it is right now."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return describe() | {
        "load": psutil.getloadavg()[0],
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
    }


def sentence() -> str:
    """The machine and what ran on it, as pages of measurements say it."""
    found = describe()
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return f"Machine: {found['processor']}, {found['cores']} cores; {versions}."


def cores() -> int:
    """Cores this process may use."""
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    return len(affinity) if affinity else psutil.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
