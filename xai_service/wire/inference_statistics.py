"""How often each model was asked, and how long that took: what the protocol's ModelStatistics tells.

The servicer reports what it answered. Time spent waiting is nobody's to report yet.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class Duration:
    """How often something happened, and for how many nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Counts one more."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class ModelCounts:
    """What is known of one version of one model.

    Attributes:
        last_ms: when it last answered, milliseconds since the Unix epoch; 0 if never.
        rows: answered in all.
        success: requests answered.
        fail: requests refused or failed.
        queue: waiting before anything was done; nothing where nobody reports it.
        decode, infer, encode: parts of the requests answered.
    """

    last_ms: int = 0
    rows: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    encode: Duration = field(default_factory=Duration)

    def copy(self) -> ModelCounts:
        """Returns one that no longer changes."""
        parts = ("success", "fail", "queue", "decode", "infer", "encode")
        return replace(self, **{name: replace(getattr(self, name)) for name in parts})


class InferenceStatistics:
    """Counts of each model and version that was asked. Thread-safe.

    Report only models that are there: it keeps what it is told of.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], ModelCounts] = {}

    def answered(self, name: str, version: str, rows: int, *, decode_ns: int, infer_ns: int, encode_ns: int) -> None:
        """Counts a request that was answered."""
        now_ms = time.time_ns() // 1_000_000
        with self._lock:
            counts = self._counts(name, version)
            counts.last_ms = now_ms
            counts.rows += rows
            counts.success.add(decode_ns + infer_ns + encode_ns)
            counts.decode.add(decode_ns)
            counts.infer.add(infer_ns)
            counts.encode.add(encode_ns)

    def failed(self, name: str, version: str, ns: int) -> None:
        """Counts a request that ended with an error."""
        with self._lock:
            self._counts(name, version).fail.add(ns)

    def waited(self, name: str, version: str, ns: int) -> None:
        """Counts how long a request waited."""
        with self._lock:
            self._counts(name, version).queue.add(ns)

    def of(self, name: str, version: str) -> ModelCounts:
        """Returns a version's counts as they are now, all zero where it was never asked."""
        with self._lock:
            counts = self._models.get((name, version))
            return ModelCounts() if counts is None else counts.copy()

    def _counts(self, name: str, version: str) -> ModelCounts:
        counts = self._models.get((name, version))
        if counts is None:
            counts = self._models[name, version] = ModelCounts()
        return counts
