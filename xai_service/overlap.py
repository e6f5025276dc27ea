"""Prediction and explanation of the same rows: both at once or one after the other, and the reply never late for it.

With a core to spare the kernel's workers explain while the calling thread predicts. Where every core is at work, the
hand-over costs more than it saves, and the calling thread does both. Which of the two is quicker is measured as it
serves (`Order`), never found out by spinning.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xai_service import assemble
from xai_service.cpus import usable_cpus
from xai_service.lanes import wait_until
from xai_service.model.costs import FEW_ROWS, Order, Pace
from xai_service.types import Attributions, Explanations, ExplanationStatus, Float32Array, Prediction, Timings

if TYPE_CHECKING:
    from xai_service import treeshap
    from xai_service.budget import Deadline
    from xai_service.model.snapshot import ModelSnapshot

_log = logging.getLogger(__name__)

# What the calling thread explains cannot be stopped, so it must be short, and short beside what is left.
_LONGEST_HERE_US = 4_000.0
_PATIENCE_S = 0.004  # with workers, where this thread could do it too
_SHARE_OF_WHAT_IS_LEFT = 0.25
_SMALL_BATCH = 64

Answer = tuple[Prediction, Explanations, Timings]
_Outcome = Attributions | Exception | None  # the kernel's; None: not ready in time


@dataclass(slots=True)
class _Learnt:
    """What serving taught about a model, for few rows or for many."""

    pace: Pace = field(default_factory=Pace)
    order: Order = field(default_factory=Order)
    costs: dict[int, tuple[float, float, float]] = field(default_factory=dict)  # of small batches, as calibrated


class Overlap:
    """Predicts and explains. Thread-safe.

    Args:
        pool: the kernel's workers.
        tolerance: of additivity; see `xai_service.assemble`.
    """

    def __init__(self, pool: treeshap.WorkerPool, tolerance: float) -> None:
        self._pool = pool
        self._tolerance = tolerance
        self._has_core_to_spare = usable_cpus() > 1
        # By weak reference: what is known of a model goes with it.
        self._learnt: weakref.WeakKeyDictionary[ModelSnapshot, tuple[_Learnt, _Learnt]] = weakref.WeakKeyDictionary()

    def predict(self, model: ModelSnapshot, rows: Float32Array, status: ExplanationStatus, why: str) -> Answer:
        """Returns the predictions of rows that are not explained now, the explanations' status and its reason."""
        return _unexplained(model, model.predict(rows), len(rows), status, why)

    def predict_and_explain(self, model: ModelSnapshot, rows: Float32Array, deadline: Deadline) -> Answer:
        """Returns predictions and explanations of float32 (n, features) rows; these are awaited until the deadline."""
        n = len(rows)
        learnt = (self._learnt.get(model) or self._learnt.setdefault(model, (_Learnt(), _Learnt())))[n >= FEW_ROWS]
        pace, order = learnt.pace, learnt.order
        predict_us, calibrated_us, here_us = learnt.costs.get(n) or self._costs(learnt, model, n)
        left_us = deadline.remaining_us(time.monotonic_ns())
        # While the prediction runs, the caller waits anyway: what is done by then costs nothing, whatever is left.
        # As calibrated, since in this thread there are no workers to wait for, which is what the pace knows of.
        is_short = here_us <= _LONGEST_HERE_US
        fits_here = is_short and here_us <= left_us / 2
        if not fits_here and not pace.fits(calibrated_us, max(left_us, predict_us)):
            detail = (
                f"estimated at {pace.estimate_us(calibrated_us) / 1e3:.3g} ms, with {left_us / 1e3:.3g} ms left of the "
                f"budget of {deadline.budget_ms:.3g} ms"
            )
            return _unexplained(model, model.predict(rows), n, ExplanationStatus.DEFERRED, detail)

        method = model.method_for(n)
        in_turn = here_us <= min(_LONGEST_HERE_US, _SHARE_OF_WHAT_IS_LEFT * left_us) and (
            not self._has_core_to_spare or order.in_turn() or self._pool.busy
        )
        started_ns = time.monotonic_ns()
        if in_turn:
            prediction, outcome = _in_turn(model, rows)
        else:
            prediction, outcome = _at_once(self._pool, model, rows, deadline, is_short=is_short)
        ended_ns = time.monotonic_ns()
        if not isinstance(outcome, Attributions):
            return self._without(outcome, learnt, model, prediction, (ended_ns - started_ns) / 1e3, deadline)
        order.took((ended_ns - started_ns) / (1e3 * n), in_turn=in_turn)
        pace.ready(calibrated_us, (outcome.finished_ns - (outcome.started_ns if in_turn else started_ns)) / 1e3)
        explanations = assemble.complete(outcome, model.base_values, prediction.margin, method, self._tolerance)
        if explanations.detail:
            _log.error("model %s: %s", model.manifest.name, explanations.detail, extra=_about(model))
        return prediction, explanations, assemble.timings(prediction, outcome)

    def _costs(self, learnt: _Learnt, model: ModelSnapshot, n: int) -> tuple[float, float, float]:
        """Returns the calibrated microseconds to predict n rows, to explain them on the pool, and here."""
        here_us = math.inf if model.explains_by_asking else model.costs.explain_us(n)
        costs = model.costs.predict_us(n), model.costs.explain_us(n, self._pool.threads), here_us
        if n <= _SMALL_BATCH:
            learnt.costs[n] = costs
        return costs

    def _without(
        self,
        outcome: Exception | None,
        learnt: _Learnt,
        model: ModelSnapshot,
        prediction: Prediction,
        took_us: float,
        deadline: Deadline,
    ) -> Answer:
        """What there is where the kernel failed, or was not ready in time."""
        n = len(prediction.margin)
        if outcome is None:
            learnt.pace.late(model.costs.explain_us(n, self._pool.threads), took_us)
            detail = f"not ready within the budget of {deadline.budget_ms:.3g} ms"
            return _unexplained(model, prediction, n, ExplanationStatus.DEFERRED, detail)
        # The kernel's failure does not take the prediction with it.
        _log.error("model %s: the kernel failed", model.manifest.name, exc_info=outcome, extra=_about(model))
        return _unexplained(model, prediction, n, ExplanationStatus.FAILED, f"the kernel failed: {outcome}")


def _about(model: ModelSnapshot) -> dict[str, str]:
    return {"model": model.manifest.name}


def _unexplained(
    model: ModelSnapshot,
    prediction: Prediction,
    n: int,
    status: ExplanationStatus,
    detail: str,
) -> Answer:
    explanations = assemble.without_attributions(status, n, model.base_values, model.method_for(n), detail)
    return prediction, explanations, assemble.timings(prediction, None)


def _in_turn(model: ModelSnapshot, rows: Float32Array) -> tuple[Prediction, _Outcome]:
    prediction = model.predict(rows)
    return prediction, _here(model, rows)


def _here(model: ModelSnapshot, rows: Float32Array) -> _Outcome:
    started_ns = time.monotonic_ns()
    try:
        phi = model.explain_here(rows)
    except (RuntimeError, MemoryError) as error:
        return error
    return Attributions(phi, started_ns, time.monotonic_ns())


def _at_once(
    pool: treeshap.WorkerPool, model: ModelSnapshot, rows: Float32Array, deadline: Deadline, *, is_short: bool
) -> tuple[Prediction, _Outcome]:
    try:
        job = model.explain(pool, rows)
    except (RuntimeError, MemoryError) as error:
        return model.predict(rows), error
    try:
        prediction = model.predict(rows)
        # Workers that are at something else are not waited for where this thread is as quick.
        ready = job.wait(_PATIENCE_S) if is_short else False
        left_s = deadline.remaining_s(time.monotonic_ns())
        if not ready and is_short and (left_s is None or left_s > _PATIENCE_S):
            job.cancel()
            return prediction, _here(model, rows)
        ready = ready or wait_until(job.wait, lambda: deadline.remaining_s(time.monotonic_ns()))
    finally:
        job.cancel()
    if not ready:
        return prediction, None
    try:
        return prediction, model.attributions(job)
    except (RuntimeError, MemoryError) as error:
        return prediction, error
