"""CPU quotas as control groups of both versions state them, the least along the path; nonsense limits nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xai_service import cpus


def tree(root: Path, cgroups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A fake ``/proc/self/cgroup`` and the mounted hierarchies."""
    for name, text in files.items():
        path = root / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "cgroup").write_text(cgroups)
    return root / "cgroup", root / "mount"


def v1(folder: str, quota: str, period: str = "100000\n") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


CASES = {
    "v2": ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
    "v2 without a limit": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
    "v2, the parent's is less": (
        "0::/a/b/c\n",
        {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "400000 100000"},
        2.0,
    ),
    "v2, the child's is less": ("0::/a/b\n", {"a/cpu.max": "8 1", "a/b/cpu.max": "1 2"}, 0.5),
    "v2, a namespace of its own": ("0::/\n", {"cpu.max": "300000 100000"}, 3.0),
    "v2, the host's path in a container": ("0::/kube/pod/x\n", {"cpu.max": "250000 100000"}, 2.5),
    "v2, another's group": ("0::/a\n", {"b/cpu.max": "100000 100000"}, None),
    "v1": ("4:memory:/m\n3:cpu,cpuacct:/a\n", v1("cpu,cpuacct/a", "250000\n"), 2.5),
    "v1, named cpu": ("3:cpu:/a\n", v1("cpu/a", "50000", "50000"), 1.0),
    "v1 by its link": ("3:cpuacct,cpu:/a\n", v1("cpu/a", "400000"), 4.0),
    "v1 without a limit": ("3:cpu:/a\n", v1("cpu/a", "-1\n"), None),
    "v1, nested": ("3:cpu:/a/b\n", v1("cpu", "-1") | v1("cpu/a", "700000") | v1("cpu/a/b", "900000"), 7.0),
    "v1, cpuset is another": ("3:cpuset:/a\n", v1("cpuset/a", "100000") | v1("cpu/a", "100000"), None),
    "both": ("3:cpu:/a\n0::/b\n", v1("cpu/a", "300000") | {"unified/b/cpu.max": "200000 100000"}, 2.0),
    "a path with colons": ("0::/a:b\n", {"a:b/cpu.max": "2 1"}, 2.0),
    "nothing mounted": ("3:cpu:/a\n0::/a\n", {}, None),
    "nonsense": ("what\n\n0\n::\n:cpu\n0::\n", {"cpu.max": "a b c"}, None),
    "an empty file": ("0::/a\n", {"a/cpu.max": ""}, None),
    "no period": ("0::/a/b\n", {"a/cpu.max": "2 1", "a/b/cpu.max": "1 0"}, 2.0),
    "half of v1": ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000"}, None),
    "zero": ("0::/a\n", {"a/cpu.max": "0 100000"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_quotas(tmp_path: Path, case: str) -> None:
    cgroups, files, expected = CASES[case]
    assert cpus.cpu_quota(*tree(tmp_path, cgroups, files)) == expected


def test_files_that_cannot_be_read_limit_nothing(tmp_path: Path) -> None:
    assert cpus.cpu_quota(tmp_path / "nothing", tmp_path) is None
    (tmp_path / "cgroup").write_bytes(b"\xff\xfe0::/a")
    assert cpus.cpu_quota(tmp_path / "cgroup", tmp_path) is None
    (tmp_path / "cgroup").write_text("0::/a")
    (tmp_path / "a/cpu.max").mkdir(parents=True)
    assert cpus.cpu_quota(tmp_path / "cgroup", tmp_path) is None


@pytest.mark.parametrize(("quota", "usable"), [("max", 4), ("10", 4), ("4", 4), ("2.5", 3), ("1", 1), ("0.1", 1)])
def test_the_lesser_of_affinity_and_quota_rounded_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, usable: int
) -> None:
    microseconds = quota if quota == "max" else int(float(quota) * 100_000)
    cgroups, mount = tree(tmp_path, "0::/a\n", {"a/cpu.max": f"{microseconds} 100000\n"})
    monkeypatch.setattr(cpus, "_CGROUPS", cgroups)
    monkeypatch.setattr(cpus, "_MOUNT", mount)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 5, 6})
    assert cpus.usable_cpus() == usable


def test_this_machine_has_one() -> None:
    assert 1 <= cpus.usable_cpus() <= len(os.sched_getaffinity(0))
