"""What is counted of requests: plain numbers, added up once when a request ends, turned into text by who asks.

The data path pays two short holds of one lock for a request, and nothing for each stage: the reply's own timings are
added up. `xai_service.metrics` makes Prometheus metrics of it.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from xai_service.errors import InternalError, XaiError
from xai_service.histogram import Histogram, one_two_five
from xai_service.types import ExplanationStatus, Timings

if TYPE_CHECKING:
    from xai_service.tracing import RequestTracer
    from xai_service.waves import PredictReply

# In microseconds, as timings are: from what one row takes to what a caller waits for.
DURATION_BOUNDS_US = one_two_five(1, 7)
# In the margin's unit. Float32 rounding of margins around 1 is about 1e-7.
RESIDUAL_BOUNDS = tuple(float(f"1e{power}") for power in range(-10, 3))
# Versions that are counted apart; the one that was asked longest ago makes room for one more.
MAX_MODELS = 200

ModelKey = tuple[str, str]
"""Name and version; both are empty where a request named no model that is known."""
UNKNOWN: ModelKey = ("", "")


def _durations() -> Histogram:
    return Histogram(DURATION_BOUNDS_US)


@dataclass(slots=True)
class ModelStats:
    """One version's requests since the process began.

    Attributes:
        answered: requests with a reply.
        rows: in those.
        explanations: their rows by the status that the reply said.
        refused: requests that ended with an error, by the error's class.
        refused_us: how long those took altogether, in microseconds.
        last_ns: when the last one ended, nanoseconds since the Unix epoch.
        total, queue, predict, explain, overlap, record: of requests with a reply, in microseconds; of each stage, those
            in which it was measured.
        residual: |base + Σφ − margin| of rows for which attributions were computed.
    """

    answered: int = 0
    rows: int = 0
    explanations: dict[ExplanationStatus, int] = field(default_factory=lambda: dict.fromkeys(ExplanationStatus, 0))
    refused: dict[str, int] = field(default_factory=dict)
    refused_us: float = 0.0
    last_ns: int = 0
    total: Histogram = field(default_factory=_durations)
    queue: Histogram = field(default_factory=_durations)
    predict: Histogram = field(default_factory=_durations)
    explain: Histogram = field(default_factory=_durations)
    overlap: Histogram = field(default_factory=_durations)
    record: Histogram = field(default_factory=_durations)
    residual: Histogram = field(default_factory=lambda: Histogram(RESIDUAL_BOUNDS))

    def copy(self) -> ModelStats:
        """Returns them as they stand."""
        twin = copy.copy(self)
        for name, value in ((one.name, getattr(self, one.name)) for one in fields(self)):
            if isinstance(value, Histogram | dict):
                setattr(twin, name, value.copy())
        return twin

    def add(self, timings: Timings) -> None:
        """Adds the stages that were measured of a request."""
        self.predict.observe(timings.predict_us)
        if timings.explain_us is not None:
            self.explain.observe(timings.explain_us)
        if timings.overlap_us is not None:
            self.overlap.observe(timings.overlap_us)
        if timings.queue_us is not None:
            self.queue.observe(timings.queue_us)
        if timings.record_us is not None:
            self.record.observe(timings.record_us)
        if timings.total_us is not None:
            self.total.observe(timings.total_us)


class Telemetry:
    """Counts what becomes of requests, and hands them to a tracer where there is one. Thread-safe.

    Args:
        identify: name and version that a request means by those it gives, ``None`` where there is no such. What is not
            in the repository is never a label, whatever callers send.
        tracer: is told of each request that ended.
    """

    def __init__(
        self,
        identify: Callable[[str, str | None], ModelKey | None] = lambda _name, _version: None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._identify = identify
        self._tracer = tracer
        self._lock = threading.Lock()
        self._models: dict[ModelKey, ModelStats] = {}
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests that began and have not ended."""
        return self._in_flight

    def began(self) -> int:
        """Counts a request in. Returns `time.monotonic_ns`, for `refused`."""
        with self._lock:
            self._in_flight += 1
        return time.monotonic_ns()

    def done(self, reply: PredictReply) -> None:
        """Counts a request that has its reply."""
        manifest, timings, explanations = reply.model.manifest, reply.timings, reply.explanations
        statuses, rows = explanations.statuses, len(explanations.statuses)
        mixed = None if statuses.count(statuses[0]) == rows else Counter(statuses)
        residuals = None
        if timings.explain_us is not None and (rows > 1 or explanations.phi is None):
            residuals = Histogram(RESIDUAL_BOUNDS)
            residuals.observe_all(explanations.residual)
        key = manifest.name, manifest.version
        now_ns = time.time_ns()
        with self._lock:
            self._in_flight -= 1
            stats = self._models.get(key) or self._first_of(key)
            stats.answered += 1
            stats.rows += rows
            stats.last_ns = now_ns
            stats.add(timings)
            if residuals is not None:
                stats.residual.add(residuals)
            elif timings.explain_us is not None:
                stats.residual.observe(explanations.residual.item())
            if mixed is None:
                stats.explanations[statuses[0]] += rows
            else:
                for status, count in mixed.items():
                    stats.explanations[status] += count
        if self._tracer is not None:
            self._tracer.done(reply)

    def refused(self, name: str, version: str | None, error: BaseException, began_ns: int | None = None) -> None:
        """Counts a request that ended with an error.

        Args:
            name: the model it asked for, as it was sent.
            version: likewise; ``None`` for the highest.
            error: what its caller is told; one that is not of this package is an InternalError to it.
            began_ns: what `began` returned; ``None`` where it was not called, as the request could not even be read.
        """
        key = self._identify(name, version) or UNKNOWN
        reason = type(error).__name__ if isinstance(error, XaiError) else InternalError.__name__
        now_ns = time.monotonic_ns()
        with self._lock:
            stats = self._models.get(key) or self._first_of(key)
            stats.refused[reason] = stats.refused.get(reason, 0) + 1
            stats.last_ns = time.time_ns()
            if began_ns is not None:
                self._in_flight -= 1
                stats.refused_us += (now_ns - began_ns) / 1e3
        if self._tracer is not None and began_ns is not None:
            self._tracer.refused(key, reason, began_ns, now_ns)

    def models(self) -> list[tuple[ModelKey, ModelStats]]:
        """Returns a copy of what was counted of each version that was asked, each of one moment."""
        with self._lock:
            keys = list(self._models)
        copies = []
        for key in keys:  # the lock is let go in between, for copying all would keep requests waiting
            with self._lock:
                if key in self._models:
                    copies.append((key, self._models[key].copy()))
        return copies

    def close(self) -> None:
        """Sends what the tracer still holds."""
        if self._tracer is not None:
            self._tracer.close()

    def _first_of(self, key: ModelKey) -> ModelStats:
        """Under the lock."""
        if len(self._models) >= MAX_MODELS:
            del self._models[min(self._models, key=lambda one: self._models[one].last_ns)]
        return self._models.setdefault(key, ModelStats())
