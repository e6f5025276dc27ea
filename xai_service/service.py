"""One request, top to bottom. Read `ExplainService.predict` first.

wire → decode → admit → ( predict ∥ explain ) → assemble → record → reply

Nothing here knows gRPC: `xai_service.wire` decodes and encodes. The calling thread predicts; native workers explain at
the same time; the ledger's writer commits.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import weakref
from dataclasses import dataclass, replace

from xai_service import assemble, treeshap
from xai_service._profile import FeatureProfile
from xai_service.budget import Deadline, ReplyCost
from xai_service.checks import check_shape, check_values, in_model_order
from xai_service.config import ServiceConfig
from xai_service.decisions import decisions_of, read_decision
from xai_service.deferred import DeferredExplainer
from xai_service.errors import BudgetExhausted, InternalError
from xai_service.lanes import Admission, DeferredLane, wait_until
from xai_service.ledger.entry import Decision, Explanation, encode_decision
from xai_service.ledger.ids import new_ids
from xai_service.ledger.store import Ledger, NewEntry
from xai_service.model.costs import FEW_ROWS, Pace
from xai_service.model.repository import ModelEntry, Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.model.watch import Watch
from xai_service.types import (
    ExplanationMode,
    Explanations,
    ExplanationStatus,
    PredictCall,
    Prediction,
    Timings,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PredictReply:
    """What one request is answered, row by row in the order sent."""

    model: ModelSnapshot
    decision_ids: tuple[uuid.UUID, ...]
    prediction: Prediction
    explanations: Explanations
    timings: Timings


class ExplainService:
    """Predicts, explains within budget and records. Thread-safe; `start` it once, `close` it once.

    Args:
        config: its settings.
        repository: the models that it serves.
        ledger: where decisions are stored; closed by `close`.
    """

    def __init__(self, config: ServiceConfig, repository: Repository, ledger: Ledger) -> None:
        self._config = config
        self._repository = repository
        self._ledger = ledger
        self._pool = treeshap.WorkerPool(config.kernel_threads)
        self._admission = Admission(config.max_rows_in_flight)
        self._profiles = _Profiles()
        self._reply_cost = ReplyCost()
        # For few rows and for many. By weak reference: what is known of a model goes with it.
        self._paces: weakref.WeakKeyDictionary[ModelSnapshot, tuple[Pace, Pace]] = weakref.WeakKeyDictionary()
        self._explainer = DeferredExplainer(repository, ledger, self._pool, config.additivity_tolerance)
        self._deferred = DeferredLane(self._explainer)
        self._watch = Watch(self._look_at_repository, config.reload_every_s)

    def start(self) -> None:
        """Begins with the explanations that an earlier process left unfinished, and to watch the repository."""
        self._deferred.start()
        self._watch.start()

    def close(self) -> None:
        """Takes nothing more, ends the background work and closes the ledger. Requests under way should be over."""
        self._admission.close()
        self._watch.close()
        self._explainer.close()
        self._deferred.close()
        self._ledger.close()

    def predict(self, call: PredictCall) -> PredictReply:
        """Answers one request. Each row is a decision, stored durably when this returns.

        Raises:
            XaiError: nothing was recorded; the class says whose fault it was.
        """
        arrived_ns = time.monotonic_ns()
        model = self._repository.get(call.model_name, call.model_version)
        deadline = Deadline.open(
            arrived_ns,
            transport_s=call.time_remaining_s,
            requested_ms=call.latency_budget_ms,
            default_ms=self._default_budget_ms(model, call),
            reserve_ms=self._reply_cost.reserve_ms(len(call.rows), self._config.reply_reserve_ms),
        )
        check_shape(call, model, self._config.max_rows_per_request)
        with self._admission.admit(len(call.rows)):
            call = in_model_order(call, model)
            self._profiles.check_and_merge(call, model)
            if call.mode is ExplanationMode.NONE:
                prediction, explanations, timings = _predict_alone(model, call, deadline)
            else:
                prediction, explanations, timings = self._predict_and_explain(model, call, deadline)
            if call.mode is ExplanationMode.REQUIRED:
                _check_complete(explanations)
            return self._record(model, call, prediction, explanations, timings, arrived_ns)

    def decision(self, decision_id: uuid.UUID) -> tuple[Decision, Explanation]:
        """Returns one decision as it was recorded, and its explanation as it stands now.

        Raises:
            DecisionNotFound: no such decision.
        """
        return read_decision(self._ledger.get(decision_id))

    def models(self) -> list[ModelEntry]:
        """Returns what the repository holds, servable or not."""
        return self._repository.entries()

    def reload(self) -> None:
        """Has the repository looked at now, in the background. May be called by a signal handler."""
        self._watch.ring()

    def pending_explanations(self) -> int:
        """Returns how many recorded decisions wait for their explanation."""
        return self._ledger.pending_count()

    def _look_at_repository(self) -> None:
        if self._repository.reload(stop=lambda: self._watch.closing):
            self._explainer.look_again()  # what waits in the ledger may be of the models that came
            self._deferred.wake()

    def _default_budget_ms(self, model: ModelSnapshot, call: PredictCall) -> float | None:
        """The bundle's binds every request; the service's own is for where neither bundle nor request names one."""
        if model.manifest.latency_budget_ms or call.latency_budget_ms is not None:
            return model.manifest.latency_budget_ms
        return self._config.default_budget_ms or None

    def _predict_and_explain(
        self, model: ModelSnapshot, call: PredictCall, deadline: Deadline
    ) -> tuple[Prediction, Explanations, Timings]:
        """Runs both at once, and waits for the explanation no longer than the deadline says, if it is worth a try."""
        method = model.method_for(len(call.rows))
        paces = self._paces.get(model) or self._paces.setdefault(model, (Pace(), Pace()))
        pace = paces[len(call.rows) >= FEW_ROWS]
        calibrated_us = model.costs.explain_us(len(call.rows), self._pool.threads)

        def remaining_s() -> float | None:
            return deadline.remaining_s(time.monotonic_ns())

        def unexplained(status: ExplanationStatus, detail: str) -> tuple[Prediction, Explanations, Timings]:
            explanations = assemble.without_attributions(status, len(call.rows), model.base_values, method, detail)
            return prediction, explanations, assemble.timings(prediction, None, deadline.budget_ms)

        def kernel_failed(error: Exception) -> tuple[Prediction, Explanations, Timings]:
            _log.error("model %s: the kernel failed", model.manifest.name, exc_info=error)
            return unexplained(ExplanationStatus.FAILED, f"the kernel failed: {error}")

        # While the prediction runs, the caller waits anyway: what is done by then costs nothing, whatever is left.
        left_s = remaining_s()
        if left_s is not None and not pace.fits(
            calibrated_us, max(left_s * 1e6, model.costs.predict_us(len(call.rows)))
        ):
            prediction = model.predict(call.rows)
            return unexplained(
                ExplanationStatus.DEFERRED,
                f"estimated at {pace.estimate_us(calibrated_us) / 1e3:.3g} ms, with {left_s * 1e3:.3g} ms left of the "
                f"budget of {deadline.budget_ms:.3g} ms",
            )
        submitted_ns = time.monotonic_ns()
        try:
            job = model.explain(self._pool, call.rows)
        except (RuntimeError, MemoryError) as error:
            prediction = model.predict(call.rows)
            return kernel_failed(error)
        try:
            prediction = model.predict(call.rows)
            ready = wait_until(job.wait, remaining_s)
        finally:
            job.cancel()
        if not ready:
            pace.late(calibrated_us, (time.monotonic_ns() - submitted_ns) / 1e3)
            return unexplained(
                ExplanationStatus.DEFERRED, f"not ready within the budget of {deadline.budget_ms:.3g} ms"
            )
        try:
            attributions = model.attributions(job)
        except (RuntimeError, MemoryError) as error:  # the kernel's failure does not take the prediction with it
            return kernel_failed(error)
        pace.ready(calibrated_us, (attributions.finished_ns - submitted_ns) / 1e3)
        explanations = assemble.complete(
            attributions, model.base_values, prediction.margin, method, self._config.additivity_tolerance
        )
        if explanations.detail:
            _log.error("model %s: %s", model.manifest.name, explanations.detail)
        return prediction, explanations, assemble.timings(prediction, attributions, deadline.budget_ms)

    def _record(
        self,
        model: ModelSnapshot,
        call: PredictCall,
        prediction: Prediction,
        explanations: Explanations,
        timings: Timings,
        arrived_ns: int,
    ) -> PredictReply:
        started_ns = time.monotonic_ns()
        ids = new_ids(len(call.rows))
        decisions = decisions_of(ids, time.time_ns(), model, call.rows, prediction, explanations, timings, call.strings)
        deferred = [decision.explanation.status is ExplanationStatus.DEFERRED for decision in decisions]
        self._ledger.append(
            [
                NewEntry(decision.decision_id, encode_decision(decision), pending)
                for decision, pending in zip(decisions, deferred, strict=True)
            ]
        )
        if any(deferred):
            self._explainer.hold(model)
            self._deferred.wake()
        finished_ns = time.monotonic_ns()
        self._reply_cost.observe(len(ids), (finished_ns - started_ns) / 1e6)
        timings = replace(
            timings, record_us=(finished_ns - started_ns) / 1e3, total_us=(finished_ns - arrived_ns) / 1e3
        )
        return PredictReply(model, tuple(ids), prediction, explanations, timings)


def _predict_alone(
    model: ModelSnapshot, call: PredictCall, deadline: Deadline
) -> tuple[Prediction, Explanations, Timings]:
    prediction = model.predict(call.rows)
    explanations = assemble.without_attributions(
        ExplanationStatus.NOT_REQUESTED,
        len(call.rows),
        model.base_values,
        model.method_for(len(call.rows)),
        "the request asked for none",
    )
    return prediction, explanations, assemble.timings(prediction, None, deadline.budget_ms)


def _check_complete(explanations: Explanations) -> None:
    """Refuses a reply whose explanations are not there, for requests that want none without them."""
    if ExplanationStatus.FAILED in explanations.statuses:
        raise InternalError(f"the explanation failed, and the request requires it: {explanations.detail}")
    if ExplanationStatus.DEFERRED in explanations.statuses:
        raise BudgetExhausted(f"no explanation in time, and the request requires it: {explanations.detail}")


class _Profiles:
    """Streaming statistics of the rows each model was asked about."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By weak reference: a model's statistics go with it.
        self._by_model: weakref.WeakKeyDictionary[ModelSnapshot, FeatureProfile] = weakref.WeakKeyDictionary()

    def check_and_merge(self, call: PredictCall, model: ModelSnapshot) -> None:
        """Folds the rows in when they are the model's, else raises InvalidInput and leaves no trace of them."""
        profile = self._by_model.get(model)
        if profile is None:
            with self._lock:
                profile = self._by_model.setdefault(model, FeatureProfile(len(model.feature_names)))
        scan = check_values(call, model, profile)
        with self._lock:
            profile.merge(scan)
