"""One request, top to bottom. Read `ExplainService.begin` first.

wire → decode → admit → ( predict ∥ explain ) → assemble → record → reply

Nothing here knows gRPC: `xai_service.wire` decodes and encodes. The calling thread predicts; native workers explain at
the same time; the ledger's writer commits. Requests that are there together are answered together (`waves`).
"""

from __future__ import annotations

import copy
import time
import uuid
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from xai_service import assemble, trace_context, treeshap
from xai_service._profile import FeatureProfile
from xai_service.budget import Deadline, ReplyCost
from xai_service.checks import check_shape, in_model_order
from xai_service.config import ServiceConfig
from xai_service.decisions import decisions_of, read_decision
from xai_service.deferred import DeferredExplainer
from xai_service.errors import BudgetExhausted, InternalError, InvalidInput, Overloaded, Unavailable, XaiError
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
    Timings,
)
from xai_service.waves import FEW_ROWS, PredictReply, Request, Wave

_DEFERRED = ExplanationStatus.DEFERRED

_SHORT_US = 2_000.0
_LEAST_LEFT_US = 3_000.0  # less is a hurry that others should not be drawn into


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
        # By weak reference: what is known of a model goes with it.
        self._short: weakref.WeakKeyDictionary[ModelSnapshot, bool] = weakref.WeakKeyDictionary()
        self._reply_cost = ReplyCost()
        self._overlap = Overlap(self._pool, config.additivity_tolerance)
        self._explainer = DeferredExplainer(
            repository, ledger, self._pool, config.additivity_tolerance, config.max_deferred
        )
        self._deferred = DeferredLane(self._explainer, lambda: self.telemetry.in_flight > 0)
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
        (outcome,) = self.begin([call]).wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def begin(self, calls: Sequence[PredictCall]) -> Answers:
        """Answers requests that arrived together, up to the point where their decisions are on the way to the ledger.

        Those that want the same of one model share one pass of ONNX Runtime, of the kernel and of the ledger
        (`xai_service.waves`); a row's bits do not depend on it. Raises nothing: a request's error is its own.
        """
        requests = [self._admit(call) for call in calls]
        admitted = [request for request in requests if request.error is None]
        for alike in self._alike(admitted) if len(admitted) > 1 else [admitted] * len(admitted):
            self._answer_alike(alike)
        return Answers(requests, self._finish)

    def is_short(self, call: PredictCall) -> bool:
        """Whether a request takes so little that others may wait for it. A wrong one does: it is refused at once."""
        if len(call.rows) > FEW_ROWS:
            return False
        try:
            model = self._repository.get(call.model_name, call.model_version)
        except XaiError:
            return True
        short = self._short.get(model)
        if short is None:
            costs_us = model.costs.predict_us(FEW_ROWS) + model.costs.explain_us(FEW_ROWS)
            short = self._short[model] = not model.explains_by_asking and costs_us <= _SHORT_US
        return short

    def _admit(self, call: PredictCall) -> Request:
        """Returns the request, with a place for its rows or with its error."""
        request = Request(call, self.telemetry.began())
        trace_context.enter(call.arrival.trace)
        try:
            request.model = model = self._repository.get(call.model_name, call.model_version)
            request.deadline = deadline = Deadline.open(
                request.arrived_ns,
                transport_s=call.arrival.time_remaining_s,
                requested_ms=call.latency_budget_ms,
                default_ms=self._default_budget_ms(model, call),
                reserve_ms=self._reply_cost.reserve_ms(len(call.rows), self._config.reply_reserve_ms),
            )
            check_shape(call, model, self._config.max_rows_per_request)
            waited_ms = (time.monotonic_ns() - request.arrived_ns) / 1e6
            in_time = self._admission.enter(
                len(call.rows),
                caller=call.arrival.caller,
                priority=call.priority,
                waited_ms=waited_ms if call.arrival.behind else 0.0,  # where nobody waits, this is no overload
                budget_ms=deadline.budget_ms,
            )
            request.has_place = True
            request.queue_us = waited_ms * 1e3
            request.call = in_model_order(call, model)
            if not in_time and call.mode is ExplanationMode.COMPLETE_OR_DEFERRED:
                request.put_off = f"the request waited {waited_ms:.3g} ms of its {deadline.budget_ms or 0:.3g} ms"
        except Exception as error:  # noqa: BLE001 (its caller is told)
            request.error = error
        return request

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

    def _alike(self, requests: list[Request]) -> list[list[Request]]:
        """Returns those apart that want the same of one model, and those first that are in a hurry."""
        now_ns = time.monotonic_ns()
        alike: dict[Hashable, list[Request]] = {}
        for request in requests:
            hurries = request.deadline.remaining_us(now_ns) < _LEAST_LEFT_US
            wants: Hashable = (request.model, request.call.mode is ExplanationMode.NONE, request.put_off, hurries)
            alike.setdefault(wants if request.may_share() else id(request), []).append(request)
        return sorted(alike.values(), key=lambda group: group[0].deadline.until_ns())

    def _answer_alike(self, requests: list[Request]) -> None:
        """Predicts and explains requests that want the same of one model."""
        trace_context.enter(requests[0].call.arrival.trace if len(requests) == 1 else trace_context.NONE)
        try:
            self._predict_and_explain(requests)
        except Exception as error:  # noqa: BLE001 (its caller is told)
            self._failed(requests, error)

    def _failed(self, requests: list[Request], error: Exception) -> None:
        requests = [request for request in requests if request.error is None]
        if len(requests) == 1:
            requests[0].error = error
        elif isinstance(error, (Overloaded, Unavailable)):
            for request in requests:
                request.error = copy.copy(error)  # each caller is told its own
        elif isinstance(error, InvalidInput) and (good := [one for one in requests if self._is_valid(one)]) != requests:
            if good:
                self._answer_alike(good)
        else:  # whose it is shows when each is answered alone
            for request in requests:
                self._answer_alike([request])

    def _is_valid(self, request: Request) -> bool:
        """Whether its values are its model's; if not it has its error."""
        try:
            self._profiles.check(request.call.rows, request.call.columns, request.model)
        except InvalidInput as error:
            request.error = error
        return request.error is None

    def _predict_and_explain(self, requests: list[Request]) -> None:
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

        wave = Wave(len(rows), timings, time.monotonic_ns())
        begin = 0
        for request in requests:
            end = begin + len(request.call.rows)
            part = assemble.rows_of(explanations, begin, end)
            if request.call.mode is ExplanationMode.REQUIRED and (error := _incomplete(part)) is not None:
                request.error = error
            else:
                request.ids = tuple(new_ids(end - begin))
                request.prediction, request.explanations = prediction.rows(begin, end), part
                request.wave = wave
                wave.requests.append(request)
            begin = end
        if self._config.record == "durable" and wave.requests:
            self._store(wave)

    def _store(self, wave: Wave) -> None:
        """Hands the decisions of a wave to the ledger's writer."""
        now_ns = time.time_ns()
        entries = [
            NewEntry(decision.decision_id, encode_decision(decision), decision.explanation.status is _DEFERRED)
            for request in wave.requests
            for decision in decisions_of(
                request.ids,
                now_ns,
                request.model,
                request.call.rows,
                request.prediction,
                request.explanations,
                replace(wave.timings, budget_ms=request.deadline.budget_ms),
                request.call.strings,
            )
        ]
        wave.pending = sum(entry.pending for entry in entries)
        if wave.pending:
            self._explainer.expect(wave.pending, wave.requests[0].model)
        try:
            wave.ticket = self._ledger.begin(entries)
        except BaseException:
            self._explainer.forget(wave.pending)
            raise

    def _recorded(self, wave: Wave) -> None:
        """Waits until the decisions of a wave are durable, and makes the replies."""
        if wave.ticket is not None:
            try:
                wave.ticket.wait()
            except BaseException:
                self._explainer.forget(wave.pending)
                raise
            if wave.pending:
                self._deferred.wake()
        finished_ns = time.monotonic_ns()
        self._reply_cost.observe(wave.rows, (finished_ns - wave.explained_ns) / 1e6)
        for request in wave.requests:
            times = Timings(
                wave.timings.predict_us,
                wave.timings.explain_us,
                wave.timings.overlap_us,
                request.deadline.budget_ms,
                (finished_ns - wave.explained_ns) / 1e3,
                (finished_ns - request.arrived_ns) / 1e3,
                request.queue_us,
                request.arrived_ns,
                wave.timings.explain_started_ns,
            )
            request.reply = PredictReply(request.model, request.ids, request.prediction, request.explanations, times)

    def _settle(self, request: Request) -> PredictReply | Exception:
        """Returns what became of a request, once its decisions are durable."""
        trace_context.enter(request.call.arrival.trace)
        while request.reply is None and request.error is None:
            try:
                self._recorded(request.wave)
            except Exception as error:  # noqa: BLE001 (its callers are told)
                self._failed(request.wave.requests, error)  # maybe each is answered again, in a wave of its own
        return request.reply or request.error or InternalError("the request was not answered")

    def _finish(self, request: Request) -> PredictReply | Exception:
        """Settles a request and gives back its place."""
        try:
            outcome = self._settle(request)
        except Exception as error:  # noqa: BLE001 (its caller is told)
            outcome = error
        if request.has_place:
            self._admission.leave(len(request.call.rows))
        trace_context.enter(request.call.arrival.trace)
        if isinstance(outcome, PredictReply):
            self.telemetry.done(outcome)
        else:
            self.telemetry.refused(request.call.model_name, request.call.model_version, outcome, request.began_ns)
        return outcome


class Answers:
    """Answers that were begun together. `wait` once: it says what became of each."""

    def __init__(self, requests: list[Request], finish: Callable[[Request], PredictReply | Exception]) -> None:
        self._requests = requests
        self._finish = finish

    @property
    def is_settled(self) -> bool:
        """Whether `wait` returns at once, as nothing is on its way to the ledger."""
        return all(request.error is not None or request.wave.ticket is None for request in self._requests)

    def wait(self) -> list[PredictReply | Exception]:
        """Returns the reply of each request, in order, once its decisions are durable, or why there is none."""
        return [self._finish(request) for request in self._requests]


def _incomplete(explanations: Explanations) -> XaiError | None:
    """Returns the error of a request that requires its explanations, where they are not all there."""
    if ExplanationStatus.FAILED in explanations.statuses:
        return InternalError(f"the explanation failed, and the request requires it: {explanations.detail}")
    if ExplanationStatus.DEFERRED in explanations.statuses:
        return BudgetExhausted(f"no explanation in time, and the request requires it: {explanations.detail}")
    return None
