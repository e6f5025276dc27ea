"""The values that travel along the data path. Plain, frozen, no transport and no storage in them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xai_service.trace_context import NONE, Trace

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


class ExplanationStatus(enum.Enum):
    """How far the explanation of a decision has come."""

    COMPLETE = "complete"
    DEFERRED = "deferred"
    FAILED = "failed"
    NOT_REQUESTED = "not requested"


LOWEST_PRIORITY = 9
"""Of a request; 0 is the highest."""


class ExplanationMode(enum.Enum):
    """What a request wants of explanations."""

    NONE = "none"
    COMPLETE_OR_DEFERRED = "complete or deferred"
    REQUIRED = "required"  # no reply without them: the deadline is the error


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One feature's values in a request's rows: float32 (n,), NaN where missing, or strings, None where missing."""

    name: str
    values: Float32Array | tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a request came, as far as the transport knows.

    Attributes:
        time_remaining_s: seconds left of the transport's deadline at decoding, or ``None`` without one.
        caller: who calls; requests of one caller share what is fair.
        at_ns: when it was taken from the wire, on the monotonic clock: the budget runs from then; 0: now.
        behind: how many calls wait, where that is an overload.
        trace: that it belongs to (`xai_service.trace_context`).
    """

    time_remaining_s: float | None = None
    caller: str = ""
    at_ns: int = 0
    behind: int = 0
    trace: Trace = NONE


HERE = Arrival()
"""Of a request that came by no transport."""


@dataclass(frozen=True, slots=True)
class PredictCall:
    """One decoded request.

    Attributes:
        model_name: the model asked for.
        model_version: the version asked for, or ``None`` for the highest.
        rows: float32 (n, features), C order, n ≥ 1; not yet checked against the model. (n, 0) where columns were sent,
            until these are put in the model's order (`xai_service.checks.in_model_order`).
        feature_names: the columns' names as the caller believes them, or ``None``.
        latency_budget_ms: the request's own budget in milliseconds, or ``None``.
        columns: what was sent instead of a matrix; empty where it was one.
        mode: what it wants of explanations.
        priority: who is shed first in an overload: 0 last, the greatest number first; 0 to 9.
        arrival: how it came.
    """

    model_name: str
    model_version: str | None
    rows: Float32Array
    feature_names: tuple[str, ...] | None = None
    latency_budget_ms: float | None = None
    columns: tuple[Column, ...] = ()
    mode: ExplanationMode = ExplanationMode.COMPLETE_OR_DEFERRED
    priority: int = 0
    arrival: Arrival = HERE

    @property
    def strings(self) -> dict[int, tuple[str | None, ...]]:
        """The strings among the columns, by the column's place."""
        return {i: one.values for i, one in enumerate(self.columns) if isinstance(one.values, tuple)}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What ONNX Runtime answered for n rows.

    Attributes:
        margin: float32 (n, outputs), the raw score before any link.
        probabilities: float32 (n, classes) for a classifier, else ``None``.
        labels: int64 (n,), index of the class decided, for a classifier that decides for one, else ``None``.
        prediction: float32 (n, outputs), margin through the link, for a regressor, else ``None``.
        started_ns, finished_ns: `time.monotonic_ns` around the run.
    """

    margin: Float32Array
    probabilities: Float32Array | None
    labels: Int64Array | None
    prediction: Float32Array | None
    started_ns: int
    finished_ns: int

    def rows(self, begin: int, end: int) -> Prediction:
        """Returns what was answered for some of the rows."""
        if begin == 0 and end == len(self.margin):
            return self
        return Prediction(
            self.margin[begin:end],
            None if self.probabilities is None else self.probabilities[begin:end],
            None if self.labels is None else self.labels[begin:end],
            None if self.prediction is None else self.prediction[begin:end],
            self.started_ns,
            self.finished_ns,
        )


@dataclass(frozen=True, slots=True)
class Method:
    """How attributions were computed: enough to repeat them bit for bit."""

    algorithm: str
    variant: str
    isa: str


@dataclass(frozen=True, slots=True)
class Attributions:
    """What the kernel answered for n rows.

    Attributes:
        phi: float64 (n, features, outputs).
        started_ns, finished_ns: `time.monotonic_ns` of the kernel's first and last work on them.
        standard_error: float64 (n, features, outputs) of estimates; ``None`` where they are exact.
    """

    phi: Float64Array
    started_ns: int
    finished_ns: int
    standard_error: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class Explanations:
    """The explanations of n rows, checked.

    Attributes:
        statuses: one for each row.
        phi: float64 (n, features, outputs), NaN in rows that are not complete; ``None`` when no row is.
        base_values: float64 (outputs,).
        residual: float64 (n,), |base + Σφ − margin|, the worst output's; NaN where not computed.
        detail: why rows are deferred or failed; empty when all are complete.
        method: how it was, or will be, computed.
        standard_error: float64 (n, features, outputs), of attributions that are estimates; ``None`` of exact ones.
    """

    statuses: tuple[ExplanationStatus, ...]
    phi: Float64Array | None
    base_values: Float64Array
    residual: Float64Array
    detail: str
    method: Method
    standard_error: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Stages of one request in microseconds, and the budget in force in milliseconds (``None``: no limit).

    Stages that were not measured are ``None``: the explanation's where it was not ready for the reply, and in the
    decision's record those that pass after it is written. ``queue_us`` is the wait for admission; ``arrived_ns`` and
    ``explain_started_ns`` are `time.monotonic_ns` of the request's arrival and of the kernel's first work on it. These
    three are for metrics and traces, and not recorded.
    """

    predict_us: float
    explain_us: float | None
    overlap_us: float | None
    budget_ms: float | None = None
    record_us: float | None = None
    total_us: float | None = None
    queue_us: float | None = None
    arrived_ns: int | None = None
    explain_started_ns: int | None = None
