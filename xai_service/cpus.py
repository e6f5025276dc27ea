"""How many CPUs this process may use. A container sees all of the machine's; its quota says how many it may fill."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Returns the CPUs of the affinity mask, or fewer where a control group's quota allows fewer; at least 1."""
    affinity, quota = len(os.sched_getaffinity(0)), cpu_quota(_CGROUPS, _MOUNT)
    return affinity if quota is None else min(affinity, max(1, math.ceil(quota)))


def cpu_quota(cgroups: Path, mount: Path) -> float | None:
    """Returns the CPUs that control groups allow, ``None`` for no limit.

    The least along the path counts: a group has no more than its parents. Whatever is missing or malformed limits
    nothing.

    Args:
        cgroups: a ``/proc/PID/cgroup``: lines ``0::PATH`` (v2) and ``ID:CONTROLLERS:PATH`` (v1).
        mount: where the hierarchies are mounted.
    """
    try:
        lines = cgroups.read_text().splitlines()
    except (OSError, ValueError):
        return None
    return min((quota for line in lines for quota in _quotas_of(line, mount)), default=None)


def _quotas_of(line: str, mount: Path) -> Iterator[float]:
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers == "":
        roots, read = (mount, mount / "unified"), _quota_v2  # the latter where v1 holds the controllers
    elif "cpu" in controllers.split(","):
        roots, read = (mount / controllers, mount / "cpu"), _quota_v1
    else:
        return
    # In a container the path may be the host's, and only the root be mounted, which then is the container's own group.
    group = PurePosixPath(path.lstrip("/"))
    for folder in (group, *group.parents):
        for root in roots:
            try:
                quota = read(root / folder)
            except (OSError, ValueError, ZeroDivisionError):
                continue
            if quota > 0:  # v1 says -1 for no limit
                yield quota


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # `max` is no number: no limit


def _quota_v1(folder: Path) -> float:
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())
