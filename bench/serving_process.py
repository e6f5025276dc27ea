"""A server of the benchmark as its parent sees it: started, awaited, weighed, stopped by its own id."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.contest import ROOT, Failed

_READY_S, _STOP_S = 120.0, 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """A process of `bench.serving_servers`.

    Args:
        kind: of `bench.serving_servers.KINDS`.
        cpus: that it may run on.
        settings: for that kind.

    Raises:
        Failed: it did not start; the message ends with what it wrote.
    """

    def __init__(self, kind: str, cpus: Iterable[int], settings: dict[str, Any]) -> None:
        self.kind = kind
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by stop)
        variables = {name: value for name, value in os.environ.items() if not name.startswith("XAI_")}
        self._process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-m", "bench.serving_servers", kind, ",".join(map(str, cpus)), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**variables, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        )
        self.pid = self._process.pid
        try:
            self.target = self._first_line()
        except BaseException:
            self.stop()
            raise

    def _first_line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
        ready, _, _ = select.select([self._process.stdout], [], [], _READY_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
            raise Failed(f"the {self.kind} server did not start: {self.said()}")
        return str(json.loads(line)["listening"])

    def said(self) -> str:
        """What it wrote to stderr, the end of it."""
        self._errors.seek(0)
        return self._errors.read().strip()[-2000:] or "it wrote nothing"

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def stop(self) -> int:
        """Ends it by SIGTERM, and by force when it does not heed that. Returns its exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        return code

    def resident_mb(self) -> float:
        """Resident memory in MB (10⁶ bytes), of the process and those that it started."""
        return sum(_resident_bytes(pid) for pid in _family(self.pid)) / 1e6

    def settle(self, limit_s: float = 20.0) -> float:
        """Waits until it has nothing to do (deferred work finished), at most ``limit_s``; returns how long."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            before = _cpu_s(self.pid)
            time.sleep(0.1)
            if _cpu_s(self.pid) - before <= 1.5 / _TICKS:
                break
        return time.monotonic() - began


def _family(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _cpu_s(pid: int) -> float:
    """CPU time that it took."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0
