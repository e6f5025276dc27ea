"""Environments for rivals that do not fit into ours: ``kernel_bench.py --setup-peers`` makes them, once.

``newest``: the newest xgboost, lightgbm, shap and shapiq, which want Python 3.12 or later. ``fasttreeshap``: built from
its source against an old numpy, under Python 3.9. Interpreters come from ``pyenv`` or the search path.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """One environment: its folder's name, the Pythons it can use (the best first), and what pip installs."""

    name: str
    pythons: tuple[str, ...]
    packages: tuple[str, ...]


PEERS = (
    Peer("newest", ("3.13", "3.12"), ("xgboost-cpu", "lightgbm", "scikit-learn", "shap", "shapiq")),
    Peer("fasttreeshap", ("3.9", "3.8"), ("fasttreeshap==0.1.6", "numpy<1.24", "shap<0.46")),
)


def setup(folder: Path, say: Callable[[str], None]) -> None:
    """Makes the environments that are not there; says which cannot be made, and why."""
    for peer in PEERS:
        place = folder / peer.name
        if (place / "bin" / "python").exists():
            say(f"{peer.name}: is there")
            continue
        python = next((path for version in peer.pythons if (path := _interpreter(version))), None)
        if python is None:
            say(f"{peer.name}: no Python {' or '.join(peer.pythons)} found, with pyenv or without; left out")
            continue
        say(f"{peer.name}: installing {', '.join(peer.packages)} ...")
        try:
            subprocess.run([python, "-m", "venv", str(place)], check=True)  # noqa: S603 (an interpreter found above)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *peer.packages]
            subprocess.run(pip, check=True)  # noqa: S603 (fixed arguments)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(place, ignore_errors=True)
            say(f"{peer.name}: could not be installed (exit code {error.returncode}); left out")


def _interpreter(version: str) -> str | None:
    pyenv = shutil.which("pyenv")
    if pyenv:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            [pyenv, "prefix", version], capture_output=True, text=True, check=False
        )
        path = Path(done.stdout.strip()) / "bin" / "python"
        if done.returncode == 0 and path.exists():
            return str(path)
    return shutil.which(f"python{version}")
