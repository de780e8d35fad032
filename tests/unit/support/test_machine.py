"""How many cores there are: by affinity and by the quotas of control groups."""

import math
from pathlib import Path

import psutil
import pytest

from edgeprune.support import environment


def container(root: Path, groups: str, quotas: dict[str, str]) -> Path:
    """A file system whose process is in ``groups`` and whose groups have ``quotas``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in quotas.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "4:memory:/docker/c0\n3:cpu,cpuacct:/docker/c0\n1:name=systemd:/docker/c0\n"
CASES = {
    "v2, its own name space": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "v2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
    "v2, no controller": ("0::/init.scope\n", {}, math.inf),
    "v2, the parent's is less": (
        "0::/pod/one\n",
        {"pod/cpu.max": "200000 100000\n", "pod/one/cpu.max": "400000 100000\n"},
        2.0,
    ),
    "v1, its group at the top": (
        V1,
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "v1, its group by name": (
        V1,
        {
            "cpu/docker/c0/cpu.cfs_quota_us": "300000\n",
            "cpu/docker/c0/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "v1, no limit": (
        V1,
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        math.inf,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quotas_are_read_as_the_kernel_writes_them(tmp_path, case):
    groups, quotas, expected = CASES[case]
    assert environment.cpu_quota(container(tmp_path, groups, quotas)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert environment.cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (2.0, 2), (2.5, 3), (64.0, 8)])
def test_cores_are_those_of_affinity_within_the_quota(monkeypatch, quota, cores):
    allowed = list(range(8))
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _self: allowed, raising=False)
    monkeypatch.setattr(environment, "cpu_quota", lambda: quota)
    assert environment.cores() == cores
    monkeypatch.setattr(environment, "cpu_quota", lambda: math.inf)
    assert environment.cores() == 8
