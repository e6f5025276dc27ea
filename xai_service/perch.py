"""Keeps the threads that share the interpreter on one CPU, and gives the kernel's workers the others.

Only one thread of a Python process runs Python at a time. Spread over CPUs they hand the interpreter from one to the
next, and each finds its caches cold: two CPUs answer fewer small requests than one. So all threads but the kernel's are
kept on one CPU. It is the one that others use least; every second it is looked at again, and where others take much of
it while another CPU is idler, all move there. So no two processes that share CPUs stay on the same one for long.

Linux only; elsewhere, and on a single CPU, nothing is done. Whatever fails (a thread that ended, a control group that
forbids it) leaves threads where they are.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WORKER = "xai-kernel"
"""Name of the kernel's workers; see native/treeshap/worker_pool.cpp."""

_LOOK_EVERY_S = 1.0
_FIRST_LOOK_S = 0.1
_CROWDED = 0.08  # of the CPU's time, used by others
_IDLER = 0.05  # by which another CPU must be less used to be worth the cold caches
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far: of each CPU, by everybody; by this process; and by the kernel's workers in it."""

    busy_s: Mapping[int, float]
    own_s: float
    workers_s: float = 0.0


def read_usage(proc: Path = _PROC) -> Usage:
    """Returns what the kernel counted up to now. Raises OSError or ValueError where it does not tell."""
    tick = os.sysconf("SC_CLK_TCK")
    busy = {}
    for line in (proc / "stat").read_text().splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            user, nice, system, _idle, _wait, irq, softirq = map(int, numbers[:7])
            busy[int(name[3:])] = (user + nice + system + irq + softirq) / tick
    return Usage(busy, time.process_time(), sum(_worker_ticks(task) for task in (_PROC / "self/task").iterdir()) / tick)


def _worker_ticks(task: Path) -> int:
    with contextlib.suppress(OSError):  # it ended meanwhile
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        if name == WORKER:
            fields = rest.split()
            return int(fields[11]) + int(fields[12])
    return 0


def choose(cpus: frozenset[int], current: int | None, before: Usage, now: Usage, elapsed_s: float) -> int:
    """Returns the CPU to be on.

    Args:
        cpus: that may be used, at least one.
        current: the one that this process is on; ``None`` at first.
        before: usage at the last look.
        now: usage now.
        elapsed_s: between the two, > 0.
    """
    workers_s = now.workers_s - before.workers_s

    def others(cpu: int) -> float:
        own_s = 0.0  # before the first look it was anywhere
        if current is not None:
            own_s = now.own_s - before.own_s - workers_s if cpu == current else workers_s / max(1, len(cpus) - 1)
        return max(0.0, now.busy_s.get(cpu, 0.0) - before.busy_s.get(cpu, 0.0) - own_s) / elapsed_s

    idlest = min(sorted(cpus), key=others)
    if current is None or (others(current) > _CROWDED and others(idlest) < others(current) - _IDLER):
        return idlest
    return current


class Perch:
    """Keeps this process so while it lasts. `start` it once all lasting threads are there, `close` it once.

    Args:
        cpus: that may be used.
    """

    def __init__(self, cpus: frozenset[int]) -> None:
        self._cpus = cpus
        self._current: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xai-perch", daemon=True)

    @property
    def current(self) -> int | None:
        """The CPU that it is on, ``None`` before the first look."""
        return self._current

    def start(self) -> None:
        """Begins."""
        if len(self._cpus) > 1 and hasattr(os, "sched_setaffinity"):
            self._thread.start()

    def close(self) -> None:
        """Lets all threads roam again."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
            self._bind(self._cpus, self._cpus)

    def _run(self) -> None:
        pause_s = _FIRST_LOOK_S
        with contextlib.suppress(OSError, ValueError):  # where the system does not tell, nothing is moved
            before, began = read_usage(), time.monotonic()
            while not self._closing.wait(pause_s):
                now, ended = read_usage(), time.monotonic()
                chosen = choose(self._cpus, self._current, before, now, ended - began)
                if chosen != self._current:
                    self._current = chosen
                    self._bind(frozenset((chosen,)), self._cpus - {chosen})
                before, began, pause_s = now, ended, _LOOK_EVERY_S

    @staticmethod
    def _bind(cpus: frozenset[int], of_workers: frozenset[int]) -> None:
        for task in (_PROC / "self/task").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile, or may not be moved
                is_worker = (task / "comm").read_text().strip() == WORKER
                os.sched_setaffinity(int(task.name), of_workers if is_worker else cpus)
