"""One contestant in a process of its own, pinned to one core, driven by lines of JSON.

The same for all contestants, so that each may have its own Python, versions and environment, and none runs in
another's caches or thread pools. Runs in the rivals' environments: Python 3.9 and up, numpy.

Each request is an object with "do"; each reply has "error" or the result::

    {"do": "load", "folder": ..., "background": rows or 0}  -> {"detail": ..., "python": ...}
    {"do": "check", "rows": n, "out": path.npy}              -> {"base": [...] or null}
    {"do": "time", "rows": n, "calls": m, "start": i}        -> {"us": [of each call], "on_cpu": share}
    {"do": "compile", "calls": m}                            -> {"us": [...]}

A call of a pinned process that takes 1 ms or longer counts by its CPU time: long calls are interrupted by whoever else
wants the core, short ones rarely, and the ratio of the two would flatter the shorter.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

_MEMORY_BYTES = 6 << 30  # a rival that precomputes too much fails alone
_LONG_NS = 1_000_000
_PREPARED = 2_000  # at most so many arguments are made ready at once


class Worker:
    """Holds the contestant and the model's rows."""

    def __init__(self, kind: Any, *, pinned: bool) -> None:
        self._kind, self._pinned = kind, pinned
        self._contestant: Any = None
        self._rows: Any = None

    def load(self, folder: str, background: int) -> dict[str, Any]:
        """Makes the contestant for a model, letting go of the one before."""
        self._contestant = None
        gc.collect()
        # The background is the other end of the held-out rows than a batch starts from.
        self._rows = np.load(Path(folder) / "rows.npy")
        self._contestant = self._kind(Path(folder), self._rows[-background:] if background else None)
        return {"detail": self._contestant.detail, "python": sys.version.split()[0]}

    def check(self, rows: int, out: str) -> dict[str, Any]:
        """Writes the attributions of the first rows."""
        np.save(out, self._contestant.phi(self._rows[:rows]))
        base = self._contestant.base()
        return {"base": None if base is None else base.tolist()}

    def time(self, rows: int, calls: int, start: int) -> dict[str, Any]:
        """Times calls, each with the next rows."""
        run, total = self._contestant.run, len(self._rows)
        clock, cpu_clock = time.perf_counter_ns, time.process_time_ns
        spans: list[int] = []
        wall_ns = cpu_ns = 0
        while len(spans) < calls:
            n = min(calls - len(spans), max(1, _PREPARED // rows))
            at = [(start + (len(spans) + i) * rows) % (total - rows + 1) for i in range(n)]
            arguments = [self._contestant.prepare(self._rows[i : i + rows]) for i in at]
            if not spans and calls > 1:
                for argument in arguments[: max(1, n // 10)]:
                    run(argument)
            gc.collect()
            gc.disable()
            try:
                for argument in arguments:
                    cpu_begin, begin = cpu_clock(), clock()
                    run(argument)
                    wall = clock() - begin
                    cpu = min(wall, cpu_clock() - cpu_begin)
                    spans.append(cpu if self._pinned and wall >= _LONG_NS else wall)
                    wall_ns += wall
                    cpu_ns += cpu
            finally:
                gc.enable()
        return {"us": [span / 1e3 for span in spans], "on_cpu": cpu_ns / wall_ns}

    def compile(self, calls: int) -> dict[str, Any]:
        """Times loading."""
        spans = []
        for _ in range(calls):
            begin = time.perf_counter_ns()
            self._contestant.compile()
            spans.append((time.perf_counter_ns() - begin) / 1e3)
        return {"us": spans}


def main(kind: str, core: int) -> None:
    """Serves requests from standard input until it ends. ``core`` −1: not pinned."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the replies
    try:
        module, name = kind.split(":")
        worker = Worker(getattr(importlib.import_module(module), name), pinned=core >= 0)
        failed = None
    except Exception as error:  # noqa: BLE001 (any rival may fail in any way; the benchmark goes on without it)
        failed = f"{type(error).__name__}: {error}"
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"error": failed} if failed else getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 (as above)
            known = type(error).__name__ in ("Unsuitable", "ModuleNotFoundError")
            if not known:
                traceback.print_exc()
            reply = {"error": str(error) if known else f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
