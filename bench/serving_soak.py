"""The soak: 70 % of saturation for long, with reloads in between. Nothing may fail, and memory must stay flat."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import serving_results as r
from bench.contest import Failed
from bench.serving_cases import NORMAL, NORMAL_BUDGET_MS
from bench.serving_lab import Lab
from bench.serving_load import Load, LoadFailed
from bench.serving_model import NAME
from bench.serving_process import ServerProcess
from xai_service.client import Client

RELOAD_EVERY_S = 15.0
_SAMPLE_S = 1.0
_RELOADED_WITHIN_S = 10.0


class _Versions:
    """Version 2 comes to the repository that is served, and goes again; each time the service is told by SIGHUP."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.repository = folder / "models"
        shutil.copytree(lab.served.repository, self.repository)
        self._away, self._here = folder / "2", self.repository / NAME / "2"
        shutil.copytree(lab.served.spare / NAME / "2", self._away)
        self.reloads = 0

    @property
    def alone(self) -> bool:
        """Whether version 1 is the only one."""
        return self._away.exists()

    def swap(self, server: ServerProcess) -> None:
        """Makes the other version the one that is served, and waits until it is.

        Raises:
            Failed: it was not in time.
        """
        comes = self.alone
        (self._away if comes else self._here).rename(self._here if comes else self._away)
        server.signal(signal.SIGHUP)
        due = {"1", "2"} if comes else {"1"}
        end = time.monotonic() + _RELOADED_WITHIN_S
        with Client(server.target) as client:
            while {model.model_version for model in client.models() if model.ready} != due:
                if time.monotonic() > end:
                    raise Failed(f"versions {sorted(due)} were not served {_RELOADED_WITHIN_S:.0f} s after SIGHUP")
                time.sleep(0.2)
        self.reloads += 1


def soak(lab: Lab, seconds: float, share: float = NORMAL) -> None:
    """Runs it, at this share of saturation, and leaves what it found in the lab's results."""
    try:
        with tempfile.TemporaryDirectory(dir=lab.folder) as name:
            versions = _Versions(Path(name), lab)
            with lab.fresh(r.RECORDED, r.SPARE, repository=str(versions.repository)) as server:
                lab.results.soak = _run(lab, server, versions, seconds, share)
    except (Failed, LoadFailed) as error:
        lab.skip("soak", r.RECORDED, str(error))


def _run(lab: Lab, server: ServerProcess, versions: _Versions, seconds: float, share: float) -> dict[str, Any]:
    lab.say("soak: saturation ...")
    full = max(
        lab.load(r.RECORDED, r.SPARE, server=server, callers=64, seconds=min(5.0, seconds / 4)).rate for _ in range(2)
    )
    plan = lab.plan(*(r.RECORDED, server), rows=1, budget_ms=NORMAL_BUDGET_MS, timeout_ms=None, seconds=seconds)
    plan = dataclasses.replace(plan, rate=share * full, connections=4, warmup_s=0.0)
    at: list[float] = []
    mb: list[float] = []
    alone: list[float] = []
    began = time.monotonic()
    next_swap, next_word = began + min(RELOAD_EVERY_S, seconds / 4), began
    with lab.generator(plan) as generator:
        while (now := time.monotonic()) < began + seconds:
            at.append(now - began)
            mb.append(server.resident_mb())
            if versions.alone:
                alone.append(mb[-1])
            if now >= next_swap:
                versions.swap(server)
                next_swap = time.monotonic() + min(RELOAD_EVERY_S, seconds / 4)
            if now >= next_word:
                lab.say(f"soak: {now - began:,.0f} of {seconds:,.0f} s, {versions.reloads} reloads, {mb[-1]:.1f} MB")
                next_word = now + 30.0
            time.sleep(_SAMPLE_S)
        load = generator.result()
    return {
        "seconds": seconds,
        "saturation": full,
        "offered": share * full,
        "reloads": versions.reloads,
        "due": load.due,
        "failed": load.due - load.answered,
        "why": _why(load),
        "explained_within_budget": r.explained_share(load),
        "p50_us": r.p50(load),
        "p99_us": r.p99(load),
        "memory_s": at,
        "memory_mb": mb,
        "growth": _growth(alone),
        "each_second": load.each_second,
    }


def _why(load: Load) -> str:
    return ", ".join(text for text in (f"{load.shed} shed" if load.shed else "", load.why_wrong()) if text)


def _growth(mb: list[float]) -> float:
    """Of the last tenth against the second: the first is when everything is used for the first time.

    While one version is served: two take more, and a run ends with either.
    """
    tenth = max(1, len(mb) // 10)
    return float(np.median(mb[-tenth:]) / np.median(mb[tenth : 2 * tenth] or mb[:1]) - 1.0)
