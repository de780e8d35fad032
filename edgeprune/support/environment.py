"""The machine's description, recorded with every measurement."""

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
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
    """Describe processor, memory, operating system and library versions."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def conditions() -> dict[str, Any]:
    """Describe the present load and settings that affect speed."""
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    pages = _setting("kernel/mm/transparent_hugepage/enabled")
    return describe() | {
        "load": psutil.getloadavg()[0],
        "governor": _setting("devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_mhz": frequency.current if frequency else None,
        "huge_pages": pages.partition("[")[2].partition("]")[0] or pages,
        "numa_nodes": max(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))), 1),
    }


def _setting(name: str) -> str:
    """Read a setting of the Linux kernel."""
    try:
        return Path("/sys", name).read_text().strip()
    except OSError:
        return "unknown"


def sentence() -> str:
    """Describe the machine and its library versions in one line, for pages of measurements."""
    found = describe()
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return f"Machine: {found['processor']}, {found['cores']} cores; {versions}."


def cores() -> int:
    """Count the cores this process may use: its affinity, limited by its container's quota."""
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    return math.ceil(min(len(affinity) if affinity else psutil.cpu_count() or 1, cpu_quota()))


def cpu_quota(root: Path = Path("/")) -> float:
    """Compute the CPU quota of this process's control groups (v1, v2) in cores; inf: no limit.

    A quota holds for all groups below. Inside a container its own group may be at the top, where
    the path that the kernel names does not exist; so every part of the path is tried.

    Args:
        root: root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    mounts, quotas = root / "sys/fs/cgroup", [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = PurePosixPath(path.lstrip("/"))
        for group in (below, *below.parents):
            if not controllers:
                quotas.append(_quota(mounts / group / "cpu.max"))
            elif "cpu" in controllers.split(","):
                folder = mounts / "cpu" / group  # where v1 stands, or a link to it
                quotas.append(_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return min(quotas)


def _quota(*files: Path) -> float:
    """Return one control group's quota, in microseconds per microsecond of its period."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


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
