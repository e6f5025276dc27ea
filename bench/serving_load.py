"""The load generator from Python: compiled when it is missing or older than its source, run, and read.

It is C++ (``bench/loadgen``) because a gRPC client in Python costs more CPU than the server that it should load.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from xai_service.types import Float64Array

SOURCE = Path(__file__).resolve().parent / "loadgen"
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra")
STATUS = {
    0: "OK",
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}
SHED = "RESOURCE_EXHAUSTED"
_FEW = 50  # calls
_EXTRA_S = 60.0  # beyond its own schedule, after which a generator is given up


class LoadFailed(Exception):
    """The generator could not be compiled or run; the message is the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """A histogram.

    Attributes:
        low, high: float64 (buckets,), microseconds, ascending; a bucket holds [low, high).
        n: calls in each.
        mean, max: exact, microseconds; 0 where there was no call.
    """

    low: Float64Array
    high: Float64Array
    n: Float64Array
    mean: float = 0.0
    max: float = 0.0

    @staticmethod
    def of(document: Mapping[str, Any]) -> Latencies:
        """Reads the generator's."""
        low, high, n = np.array(document["buckets"], np.float64).reshape(-1, 3).T
        return Latencies(low, high, n, document["mean"], document["max"])

    @property
    def count(self) -> int:
        """Calls in all buckets."""
        return int(self.n.sum())

    def quantile(self, q: float) -> float:
        """Returns a quantile in microseconds, within 0.4 %; NaN where there was no call."""
        if not self.count:
            return float("nan")
        below = np.cumsum(self.n)
        place = q * below[-1]
        i = min(int(np.searchsorted(below, place)), len(self.n) - 1)
        share = (place - (below[i] - self.n[i])) / self.n[i]
        return float(min(self.low[i] + share * (self.high[i] - self.low[i]), self.max))

    def __add__(self, other: Latencies) -> Latencies:
        low = np.union1d(self.low, other.low)
        high, n = np.zeros_like(low), np.zeros_like(low)
        for part in (self, other):
            at = np.searchsorted(low, part.low)
            high[at] = part.high
            n[at] += part.n
        total = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / total if total else 0.0
        return Latencies(low, high, n, mean, max(self.max, other.max))


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What one run of the generator saw. Calls count when they were due in the measured time.

    Attributes:
        seconds: measured time.
        due: calls that were due in it.
        statuses: how many ended with which gRPC status, by name.
        reasons: the first message of each status but OK.
        answered_in_time: calls that were answered well in that time, whenever they were due.
        not_sent: left out since too many were under way.
        unanswered: not answered by the end, nor within the grace.
        expired: of the statuses' DEADLINE_EXCEEDED, those that the client gave up itself.
        within_budget: answered well within ``--budget-ms``.
        explained: with every row's explanation complete.
        explained_within_budget: both.
        rows: by the state of their explanation: complete, deferred, failed, not_requested.
        ok, failed: latencies of what was answered well, and of what was not, from when calls were due.
        lag: how long after it was due a call was handed to its connection.
        each_second: (answered well, not so, longest latency in µs) of every second.
        generator_cpu: share of one core that the generator took.
        resent: sent again since the server had not looked at them.
        reconnects: connections that were replaced.
        malformed: replies that are no PredictResponse.
        callers: of a closed loop; 0 for an open one.
    """

    seconds: float
    due: int
    statuses: Mapping[str, int]
    reasons: Mapping[str, str]
    answered_in_time: int
    not_sent: int
    unanswered: int
    expired: int
    within_budget: int
    explained: int
    explained_within_budget: int
    rows: Mapping[str, int]
    ok: Latencies
    failed: Latencies
    lag: Latencies
    each_second: Sequence[Sequence[float]]
    generator_cpu: float
    resent: int = 0
    reconnects: int = 0
    malformed: int = 0
    callers: int = 0

    @staticmethod
    def of(document: dict[str, Any], callers: int = 0) -> Load:
        """Reads what the generator printed."""
        names = {status: STATUS.get(int(status), f"STATUS_{status}") for status in document["statuses"]}
        renamed: dict[str, Any] = {
            "statuses": {names[status]: n for status, n in document["statuses"].items()},
            "reasons": {names[status]: urllib.parse.unquote(why) for status, why in document["reasons"].items()},
        }
        for name in ("ok", "failed", "lag"):
            renamed[name] = Latencies.of(document.pop(f"{name}_us"))
        return Load(**{**document, **renamed}, callers=callers)

    @property
    def rate(self) -> float:
        """Calls a second that were answered well.

        Few of a closed loop come in steps too large to compare; by Little's law they are callers / mean latency.
        """
        if self.callers and 0 < self.answered < _FEW:
            return self.callers / (self.ok.mean / 1e6)
        return self.answered_in_time / self.seconds

    @property
    def answered(self) -> int:
        """Calls of the measured time that were answered well."""
        return self.statuses.get("OK", 0)

    @property
    def shed(self) -> int:
        """Calls that the server refused for overload."""
        return self.statuses.get(SHED, 0)

    @property
    def wrong(self) -> int:
        """Calls that were neither answered well nor refused for overload, or got no answer at all."""
        return self.due - self.answered - self.shed

    def why_wrong(self) -> str:
        """Returns the statuses of those, and the first message of each."""
        parts = [
            f"{n} {status} ({self.reasons.get(status, '')})"
            for status, n in self.statuses.items()
            if status not in ("OK", SHED)
        ]
        parts += [f"{n} {what}" for n, what in ((self.unanswered, "unanswered"), (self.not_sent, "not sent")) if n]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the generator; either ``callers`` (closed loop) or ``rate`` (open loop).

    Attributes:
        target: ``host:port`` or ``unix:path``.
        method: ``/package.Service/Method``.
        bodies: a file from `write_bodies`.
        seconds: measured, after ``warmup_s``.
        extra: further options, such as ``{"--timeout-ms": 20}``; ``None`` for one without a value.
    """

    target: str
    method: str
    bodies: Path
    seconds: float
    callers: int | None = None
    rate: float | None = None
    warmup_s: float = 0.2
    connections: int = 1
    first_body: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        """The generator's command line."""
        options: dict[str, Any] = {
            "--target": self.target,
            "--method": self.method,
            "--bodies": self.bodies,
            "--seconds": self.seconds,
            "--warmup": self.warmup_s,
            "--connections": self.connections,
            "--first-body": self.first_body,
            **({"--callers": self.callers} if self.callers is not None else {"--rate": self.rate}),
            **self.extra,
        }
        return [text for name, value in options.items() for text in ([name] if value is None else [name, str(value)])]


def write_bodies(path: Path, messages: Iterable[bytes]) -> Path:
    """Writes the messages that a generator sends in turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(struct.pack("<I", len(message)) + message for message in messages))
    return path


def compiled(folder: Path, flags: Sequence[str] = FLAGS) -> Path:
    """Returns the generator's program, compiling it where ``folder`` has none of this source.

    Raises:
        LoadFailed: there is no C++ compiler, or it refuses.
    """
    sources = sorted(SOURCE.glob("*.cpp"))
    digest = hashlib.sha256(repr(flags).encode())
    for path in (*sources, *sorted(SOURCE.glob("*.h"))):
        digest.update(path.read_bytes())
    program = folder / f"loadgen-{digest.hexdigest()[:12]}"
    if program.exists():
        return program
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise LoadFailed("the load generator needs a C++ compiler: install g++, or name one in CXX")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "loadgen"
        done = subprocess.run(  # noqa: S603 (the compiler, with our own sources)
            [compiler, *flags, *map(str, sources), "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LoadFailed(f"the load generator does not compile:\n{done.stderr[-4000:]}")
        made.rename(program)
    return program


class Generator:
    """A run of the generator that is under way; a context manager that ends it by force if it is left early.

    Args:
        program: from `compiled`.
        plan: what to do.
        cpu: to run on; ``None``: any.
    """

    def __init__(self, program: Path, plan: Plan, cpu: int | None = None) -> None:
        self._callers = plan.callers or 0
        self._limit_s = plan.warmup_s + plan.seconds + _EXTRA_S
        command = [str(program), *plan.arguments]
        if cpu is not None:
            command += ["--cpu", str(cpu)]
        self._process = subprocess.Popen(  # noqa: S603 (our own program)
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Has it end now and print what it saw."""
        self._process.terminate()

    def result(self) -> Load:
        """Waits for the end.

        Raises:
            LoadFailed: it could not connect, or died.
        """
        try:
            out, errors = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LoadFailed(f"the load generator did not end within {self._limit_s:.0f} s") from None
        if self._process.returncode:
            raise LoadFailed(errors.strip() or f"the load generator ended with {self._process.returncode}")
        return Load.of(json.loads(out), self._callers)


def run(program: Path, plan: Plan, cpu: int | None = None) -> Load:
    """Runs a plan to its end. Raises `LoadFailed`."""
    with Generator(program, plan, cpu) as generator:
        return generator.result()
