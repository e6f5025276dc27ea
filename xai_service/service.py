"""One request, top to bottom. Read `ExplainService.predict` first.

wire → decode → admit → ( predict ∥ explain ) → assemble → record → reply

Nothing here knows gRPC: `xai_service.wire` decodes and encodes. The calling thread predicts; native workers explain at
the same time; the ledger's writer commits.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from xai_service import assemble, treeshap
from xai_service._profile import FeatureProfile
from xai_service.budget import Deadline, ReplyCost
from xai_service.checks import check_shape, in_model_order
from xai_service.config import ServiceConfig
from xai_service.decisions import decisions_of, read_decision
from xai_service.deferred import DeferredExplainer
from xai_service.errors import BudgetExhausted, InternalError, Overloaded, Unavailable, XaiError
from xai_service.lanes import Admission, DeferredLane
from xai_service.ledger.entry import Decision, Explanation, encode_decision
from xai_service.ledger.ids import new_ids
from xai_service.ledger.store import Ledger, NewEntry
from xai_service.model.repository import ModelEntry, Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.model.watch import Watch
from xai_service.overlap import Overlap
from xai_service.profiles import Profiles
from xai_service.telemetry import Telemetry
from xai_service.tracing import open_tracer
from xai_service.types import (
    ExplanationMode,
    Explanations,
    ExplanationStatus,
    PredictCall,
    Prediction,
    Timings,
)
from xai_service.waves import Waves

_DEFERRED = ExplanationStatus.DEFERRED

# What may share a wave: more rows make it long for those that wait beside them.
_MOST_ROWS_SHARED = 8
_MOST_REQUESTS_SHARED = 32
_LEAST_LEFT_US = 5_000.0


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

    Attributes:
        telemetry: what is counted of its requests.
        looks: how often the repository was looked at since, and how many of these loaded a version.

    Raises:
        Unavailable: traces are asked for, and what sends them is not installed.
    """

    def __init__(self, config: ServiceConfig, repository: Repository, ledger: Ledger) -> None:
        self.telemetry = Telemetry(repository.identify, open_tracer(config.traces))
        self._config = config
        self._repository = repository
        self._ledger = ledger
        self._pool = treeshap.WorkerPool(config.kernel_threads)
        self._admission = Admission(config.max_rows_in_flight)
        self._profiles = Profiles()
        self._reply_cost = ReplyCost()
        self._overlap = Overlap(self._pool, config.additivity_tolerance)
        # With every thread aboard, nobody can come any more.
        self._waves = Waves(self._answer, min(_MOST_REQUESTS_SHARED, config.rpc_threads))
        self._explainer = DeferredExplainer(
            repository, ledger, self._pool, config.additivity_tolerance, config.max_deferred
        )
        self._deferred = DeferredLane(self._explainer)
        self._watch = Watch(self._look_at_repository, config.reload_every_s)
        self.looks = (0, 0)

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
        self.telemetry.close()

    def predict(self, call: PredictCall) -> PredictReply:
        """Answers one request. Each row is a decision, stored durably when this returns.

        Raises:
            XaiError: nothing was recorded; the class says whose fault it was.
        """
        began_ns = self.telemetry.began()
        try:
            reply = self._predict(call, call.arrived_ns or began_ns)
        except BaseException as error:
            self.telemetry.refused(call.model_name, call.model_version, error, began_ns)
            raise
        self.telemetry.done(reply)
        return reply

    def _predict(self, call: PredictCall, arrived_ns: int) -> PredictReply:
        model = self._repository.get(call.model_name, call.model_version)
        deadline = Deadline.open(
            arrived_ns,
            transport_s=call.time_remaining_s,
            requested_ms=call.latency_budget_ms,
            default_ms=self._default_budget_ms(model, call),
            reserve_ms=self._reply_cost.reserve_ms(len(call.rows), self._config.reply_reserve_ms),
        )
        check_shape(call, model, self._config.max_rows_per_request)
        waited_ms = (time.monotonic_ns() - arrived_ns) / 1e6
        in_time = self._admission.enter(
            len(call.rows),
            caller=call.caller,
            priority=call.priority,
            waited_ms=waited_ms if call.behind else 0.0,  # where nobody waits, this is no overload
            budget_ms=deadline.budget_ms,
        )
        try:
            request = _Request(model, in_model_order(call, model), deadline, arrived_ns, waited_ms * 1e3)
            if not in_time and call.mode is ExplanationMode.COMPLETE_OR_DEFERRED:
                request.put_off = f"the request waited {waited_ms:.3g} ms of its {deadline.budget_ms or 0:.3g} ms"
            if request.may_share():
                self._waves.ride(request)
            else:
                self._answer([request])
        finally:
            self._admission.leave(len(call.rows))
        return request.outcome()

    def decision(self, decision_id: uuid.UUID) -> tuple[Decision, Explanation]:
        """Returns one decision as it was recorded, and its explanation as it stands now.

        Raises:
            DecisionNotFound: no such decision.
        """
        return read_decision(self._ledger.get(decision_id))

    def model(self, name: str, version: str | None = None) -> ModelSnapshot:
        """Returns the version asked for, or the highest that can be served. Raises as `Repository.get`."""
        return self._repository.get(name, version)

    def models(self) -> list[ModelEntry]:
        """Returns what the repository holds, servable or not."""
        return self._repository.entries()

    def on_models(self, tell: Callable[[list[ModelEntry]], None]) -> None:
        """Has ``tell`` called with what `models` returns, now and whenever it changes."""
        self._repository.on_change = lambda: tell(self.models())
        tell(self.models())

    def reload(self) -> None:
        """Has the repository looked at now, in the background. May be called by a signal handler."""
        self._watch.ring()

    @property
    def ledger(self) -> Ledger:
        """Where its decisions are stored."""
        return self._ledger

    def pending_explanations(self) -> int:
        """Returns how many recorded decisions wait for their explanation."""
        return self._ledger.pending_count()

    def explained_later(self) -> dict[ExplanationStatus, int]:
        """Returns how many explanations this process finished after the reply, by what became of them."""
        return dict(self._explainer.finished)

    def rows_in_flight(self) -> int:
        """Returns how many rows are admitted and under way."""
        return self._admission.rows

    def profiles(self) -> list[tuple[ModelSnapshot, FeatureProfile]]:
        """Returns the statistics of the rows that each model was asked about: copies, each of one moment."""
        return self._profiles.copies()

    def _look_at_repository(self) -> None:
        loaded = self._repository.reload(stop=lambda: self._watch.closing)
        self.looks = (self.looks[0] + 1, self.looks[1] + loaded)
        if loaded:
            self._explainer.look_again()  # what waits in the ledger may be of the models that came
            self._deferred.wake()

    def _default_budget_ms(self, model: ModelSnapshot, call: PredictCall) -> float | None:
        """The bundle's binds every request; the service's own is for where neither bundle nor request names one."""
        if model.manifest.latency_budget_ms or call.latency_budget_ms is not None:
            return model.manifest.latency_budget_ms
        return self._config.default_budget_ms or None

    def _answer(self, wave: list[_Request]) -> None:
        """Answers requests that arrived together. Raises nothing: a request's error is its own."""
        if len(wave) == 1:
            self._answer_alike(wave)
            return
        alike: dict[tuple[ModelSnapshot, bool, bool], list[_Request]] = {}
        for request in wave:
            wants = (request.model, request.call.mode is ExplanationMode.NONE, bool(request.put_off))
            alike.setdefault(wants, []).append(request)
        for requests in alike.values():
            self._answer_alike(requests)

    def _answer_alike(self, requests: list[_Request]) -> None:
        """Answers requests that want the same of one model."""
        try:
            self._predict_explain_record(requests)
        except Exception as error:  # noqa: BLE001 (raised by `_Request.outcome`)
            if len(requests) == 1:
                requests[0].error = error
                return
            for request in requests:
                if isinstance(error, (Overloaded, Unavailable)):
                    request.error = copy.copy(error)  # each is raised by a thread of its own
                else:  # whose it is shows when each is answered alone
                    self._answer_alike([request])

    def _predict_explain_record(self, requests: list[_Request]) -> None:
        first = requests[0]
        model, mode = first.model, first.call.mode
        rows = first.call.rows if len(requests) == 1 else np.concatenate([request.call.rows for request in requests])
        self._profiles.check_and_merge(rows, first.call.columns, model)
        if mode is ExplanationMode.NONE:
            prediction, explanations, timings = self._overlap.predict(
                model, rows, ExplanationStatus.NOT_REQUESTED, "the request asked for none"
            )
        elif first.put_off:
            prediction, explanations, timings = self._overlap.predict(model, rows, _DEFERRED, first.put_off)
        else:
            deadline = first.deadline
            if len(requests) > 1:
                deadline = min((request.deadline for request in requests), key=Deadline.until_ns)
            prediction, explanations, timings = self._overlap.predict_and_explain(model, rows, deadline)
        if self._config.record == "off":
            explanations = assemble.not_to_be_finished(explanations)

        started_ns = time.monotonic_ns()
        answered = []
        begin = 0
        for request in requests:
            end = begin + len(request.call.rows)
            part = assemble.rows_of(explanations, begin, end)
            if request.call.mode is ExplanationMode.REQUIRED and (error := _incomplete(part)) is not None:
                request.error = error
            else:
                answered.append((request, tuple(new_ids(end - begin)), prediction.rows(begin, end), part))
            begin = end
        if self._config.record == "durable" and answered:
            self._store(model, answered, timings)
        finished_ns = time.monotonic_ns()
        self._reply_cost.observe(len(rows), (finished_ns - started_ns) / 1e6)
        for request, ids, predicted, explained in answered:
            times = Timings(
                timings.predict_us,
                timings.explain_us,
                timings.overlap_us,
                request.deadline.budget_ms,
                (finished_ns - started_ns) / 1e3,
                (finished_ns - request.arrived_ns) / 1e3,
                request.queue_us,
                request.arrived_ns,
                timings.explain_started_ns,
            )
            request.reply = PredictReply(model, ids, predicted, explained, times)

    def _store(self, model: ModelSnapshot, answered: list[_Answered], timings: Timings) -> None:
        """Returns once the decisions are durable."""
        now_ns = time.time_ns()
        entries = [
            NewEntry(decision.decision_id, encode_decision(decision), decision.explanation.status is _DEFERRED)
            for request, ids, prediction, explanations in answered
            for decision in decisions_of(
                ids,
                now_ns,
                model,
                request.call.rows,
                prediction,
                explanations,
                replace(timings, budget_ms=request.deadline.budget_ms),
                request.call.strings,
            )
        ]
        pending = sum(entry.pending for entry in entries)
        if pending:
            self._explainer.expect(pending, model)
        try:
            self._ledger.append(entries)
        except BaseException:
            self._explainer.forget(pending)
            raise
        if pending:
            self._deferred.wake()


class _Request:
    """A request on its way, and at last its reply or its error."""

    __slots__ = ("answered", "arrived_ns", "call", "deadline", "error", "model", "put_off", "queue_us", "reply")

    def __init__(
        self,
        model: ModelSnapshot,
        call: PredictCall,
        deadline: Deadline,
        arrived_ns: int,
        queue_us: float,
    ) -> None:
        self.model = model
        self.call = call
        self.deadline = deadline
        self.arrived_ns = arrived_ns
        self.queue_us = queue_us
        self.put_off = ""  # why its explanation is not begun now
        self.reply: PredictReply | None = None
        self.error: Exception | None = None
        self.answered = threading.Lock()
        self.answered.acquire()

    def may_share(self) -> bool:
        """Whether it may be answered together with others: small, of numbers only, and not in a hurry."""
        return (
            len(self.call.rows) <= _MOST_ROWS_SHARED
            and not self.call.columns
            and self.deadline.remaining_us(self.arrived_ns) >= _LEAST_LEFT_US
        )

    def outcome(self) -> PredictReply:
        """Returns the reply, or raises the error."""
        if self.reply is None:
            raise self.error or InternalError("the request was not answered")
        return self.reply


_Answered = tuple[_Request, tuple[uuid.UUID, ...], Prediction, Explanations]


def _incomplete(explanations: Explanations) -> XaiError | None:
    """Returns the error of a request that requires its explanations, where they are not all there."""
    if ExplanationStatus.FAILED in explanations.statuses:
        return InternalError(f"the explanation failed, and the request requires it: {explanations.detail}")
    if ExplanationStatus.DEFERRED in explanations.statuses:
        return BudgetExhausted(f"no explanation in time, and the request requires it: {explanations.detail}")
    return None
