"""Finishes deferred explanations from their recorded inputs. The ledger is the queue, so none is lost on a crash."""

from __future__ import annotations

import logging
import threading
import time

from xai_service import assemble, treeshap
from xai_service.decisions import split_explanations, stack_inputs
from xai_service.errors import (
    DecisionNotFound,
    InternalError,
    ModelError,
    ModelNotFound,
    Overloaded,
    Unavailable,
    XaiError,
)
from xai_service.ledger.entry import Decision, Explanation, decode_decision, encode_explanation
from xai_service.ledger.store import Ledger, Ticket
from xai_service.model.repository import Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.types import ExplanationStatus

_log = logging.getLogger(__name__)

_BATCH = 64
_LOOK_EVERY_S = 0.25


class DeferredExplainer:
    """Explains the ledger's pending decisions, oldest first, a batch at each call.

    A decision is explained by the very model file that decided, even if the repository let go of it meanwhile: `expect`
    keeps it until it is no longer needed. One whose model is not here, or whose explanation cannot be recorded, stays
    pending; it is looked at again after `look_again`, and by the next process. None keeps those behind it waiting.

    Attributes:
        finished: how many explanations it recorded, by what became of them.
    """

    def __init__(
        self,
        repository: Repository,
        ledger: Ledger,
        pool: treeshap.WorkerPool,
        additivity_tolerance: float,
        most: int,
    ) -> None:
        self._repository = repository
        self._ledger = ledger
        self._pool = pool
        self._tolerance = additivity_tolerance
        self.finished = {ExplanationStatus.COMPLETE: 0, ExplanationStatus.FAILED: 0}
        self._lock = threading.Lock()
        self._most = most
        self._waiting = ledger.pending_count()
        self._looked_at = 0  # the ledger's sequence up to which pending decisions were looked at
        self._from_start = False
        self._closing = threading.Event()
        # What an earlier process left is of models that are here now, if at all.
        self._held = {entry.snapshot for entry in repository.entries() if entry.snapshot is not None}

    @property
    def waiting(self) -> int:
        """How many explanations are owed."""
        return self._waiting

    def expect(self, decisions: int, model: ModelSnapshot) -> None:
        """Takes so many decisions of a model on, before they are recorded, and keeps the model for them. Thread-safe.

        Raises:
            Overloaded: too many wait already.
        """
        with self._lock:
            if self._waiting + decisions > self._most:
                raise Overloaded(
                    f"{self._waiting} explanations are deferred and {decisions} more would pass the limit of "
                    f"{self._most}: allow a larger budget, or send less",
                    retry_after_s=1.0,
                )
            self._waiting += decisions
            self._held.add(model)

    def forget(self, decisions: int) -> None:
        """Takes note that so many are owed no longer. Thread-safe."""
        with self._lock:
            self._waiting -= decisions

    def look_again(self) -> None:
        """Has every pending decision looked at again. Thread-safe."""
        with self._lock:
            self._from_start = True

    def close(self) -> None:
        """Has an explanation under way that takes long stopped; it stays pending. Thread-safe."""
        self._closing.set()

    def __call__(self) -> bool:
        """Finishes up to a batch; returns whether there may be more.

        Raises:
            Unavailable, Overloaded: the ledger cannot store them now; calling again tries the same ones.
        """
        with self._lock:
            held, self._held = self._held, set()
            if self._from_start:
                self._from_start, self._looked_at = False, 0
        more = True
        try:
            more = self._finish_batch()
        finally:
            if more:  # those that remain may be theirs
                with self._lock:
                    self._held |= held
        return more

    def _finish_batch(self) -> bool:
        pending = self._ledger.pending(_BATCH, self._looked_at)
        by_model: dict[tuple[str, str, bytes], list[Decision]] = {}
        for _, decision_id in pending:
            try:
                decision = decode_decision(self._ledger.get(decision_id).data)
            except (InternalError, DecisionNotFound) as error:
                _log.error("decision %s stays deferred, its record is damaged: %s", decision_id, error)
                continue
            key = (decision.model_name, decision.model_version, decision.model_sha256)
            by_model.setdefault(key, []).append(decision)
        for (name, version, sha256), decisions in by_model.items():
            model = self._repository.find(name, version, sha256)
            if model is None:
                _log.warning(
                    "%d explanations stay deferred: %s",
                    len(decisions),
                    self._why_absent(name, version),
                    extra={"model": name},
                )
                continue
            try:
                # A row of a model that is asked takes as long as thousands of others do, and is stored once it is done.
                for start in range(0, len(decisions), step := 1 if model.explains_by_asking else _BATCH):
                    self._finish(model, decisions[start : start + step])
            except (Overloaded, Unavailable):
                raise
            except Exception:  # noqa: BLE001 (logged whole; raised, it would be met again, and those behind it never)
                _log.exception("%d explanations stay deferred", len(decisions))
        if pending:
            self._looked_at = pending[-1][0]
        return len(pending) == _BATCH

    def _why_absent(self, name: str, version: str) -> str:
        try:
            self._repository.get(name, version)
        except (ModelError, ModelNotFound) as error:
            return str(error)
        return f"{name} {version} is another file now"

    def _stops(self, model: ModelSnapshot) -> bool:
        """Whether an explanation that takes long is not to be begun, or to be broken off."""
        return model.explains_by_asking and self._closing.is_set()

    def _finish(self, model: ModelSnapshot, decisions: list[Decision]) -> None:
        if self._stops(model):
            return
        rows, margin = stack_inputs(decisions)
        method = model.method_for(len(rows))
        try:
            job = model.explain(self._pool, rows, deferred=True)
            while not job.wait(_LOOK_EVERY_S):
                if self._stops(model):
                    job.cancel()
                    return
            attributions = model.attributions(job)
        except (RuntimeError, MemoryError) as error:
            explanations = assemble.without_attributions(
                ExplanationStatus.FAILED, len(rows), model.base_values, method, f"the kernel failed: {error}"
            )
        else:
            explanations = assemble.complete(attributions, model.base_values, margin, method, self._tolerance)
        if explanations.detail:
            _log.error("model %s: %s", model.manifest.name, explanations.detail, extra={"model": model.manifest.name})
        self._store(decisions, split_explanations(explanations, time.time_ns()))

    def _store(self, decisions: list[Decision], explanations: list[Explanation]) -> None:
        """Has all stored in one commit, if the writer is free."""
        begun: list[tuple[Ticket, ExplanationStatus]] = []
        failure: Exception | None = None
        try:
            for decision, explanation in zip(decisions, explanations, strict=True):
                data = encode_explanation(decision.decision_id, explanation)
                begun.append((self._ledger.begin_amend(decision.decision_id, data), explanation.status))
        except Exception as error:  # noqa: BLE001 (raised once those that were begun are counted)
            failure = error
        for ticket, status in begun:
            try:
                if ticket.wait():
                    self.forget(1)
                    self.finished[status] += 1
            except XaiError as error:  # the others may be stored all the same
                if not isinstance(failure, Overloaded | Unavailable):  # which say: try these again
                    failure = error
        if failure is not None:
            raise failure
