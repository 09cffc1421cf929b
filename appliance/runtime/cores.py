"""How many processor cores this process may use: its affinity mask and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """At least 1. A unit with `CPUQuota=150%` counts as two cores: fewer would leave the quota unused."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroups, membership)
    return max(1, min(cores, cores if quota is None else math.ceil(quota)))


def _quota(cgroups: Path, membership: Path) -> float | None:
    """The smallest quota, in cores, of the process's control group and those above it (cgroups(7), v2)."""
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        return None
    folder = cgroups / own.lstrip("/")
    quotas = [
        quota
        for level in (folder, *folder.parents)
        if level.is_relative_to(cgroups) and (quota := _quota_of(level)) is not None
    ]
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except OSError:  # no processor controller at this level
        return None
    return None if quota == "max" else int(quota) / int(period)
