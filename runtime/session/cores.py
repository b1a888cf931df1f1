"""How many cores this process may use: affinity and the container's quota, not what the board has."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["allowed_cores"]

_CGROUP = Path("/sys/fs/cgroup")


def allowed_cores(root: Path = _CGROUP) -> int:
    """Return the number of cores the process may use, at least 1.

    Args:
        root: where control groups are mounted.

    Sources: sched_getaffinity(2); cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`
    (https://docs.kernel.org/admin-guide/cgroup-v2.html). ONNX Runtime sees neither quota.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A quota of 1.5 cores keeps two busy for most of the time.
    quota = _quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    v2 = _words(root / "cpu.max")
    if v2:
        return None if v2[0] == "max" else int(v2[0]) / int(v2[1])
    # Version 1 of control groups: older hosts and some clouds.
    quota, period = _words(root / "cpu/cpu.cfs_quota_us"), _words(root / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return int(quota[0]) / int(period[0])
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
