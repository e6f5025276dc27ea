"""One request among failures: what is a value in the reply, what is an error, and that nothing stays occupied."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xai_service import overlap
from xai_service.budget import Deadline
from xai_service.config import ServiceConfig
from xai_service.errors import BudgetExhausted, InternalError, InvalidInput, ModelNotFound, Overloaded, Unavailable
from xai_service.ledger.store import Ledger
from xai_service.model.costs import Costs, Order
from xai_service.model.repository import Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.service import ExplainService
from xai_service.types import Arrival, ExplanationMode, ExplanationStatus, PredictCall

COMPLETE, DEFERRED, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED, ExplanationStatus.FAILED
LONG_S = 60  # only waited out when a test fails


@pytest.fixture(scope="module")
def repository(loan_repository):
    return Repository(loan_repository)


@pytest.fixture(scope="module")
def rows(loans):
    return loans.held_out.to_numpy(np.float32)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Explained by the kernel's workers while the prediction runs; tests/unit/test_overlap.py has the other order."""
    monkeypatch.setattr(Order, "in_turn", lambda _: False)
    monkeypatch.setattr(overlap, "usable_cpus", lambda: 2)


@pytest.fixture
def make(repository, tmp_path):
    """Makes a started service with the settings given; closes it."""
    made = []

    def service(**settings):
        config = ServiceConfig(repository=tmp_path, ledger=tmp_path / "ledger.sqlite", **settings)
        made.append(ExplainService(config, repository, Ledger(config.ledger)))
        made[-1].start()
        return made[-1]

    yield service
    for one in made:
        one.close()


@pytest.fixture
def service(make):
    return make()


def ask(rows, **fields):
    return PredictCall("loan", None, np.ascontiguousarray(rows), **fields)


def profiled(service):
    """How many rows the profiles have seen."""
    return sum(profile.rows for profile in service._profiles._by_model.values())


def idle_with(service, decisions):
    """Nothing is under way, and so many decisions are recorded."""
    assert service._admission._rows == 0
    assert service._ledger.count() == decisions


def change_explanations(monkeypatch, change):
    """``change(φ)`` is what the kernel gives from now on."""
    explain = ModelSnapshot.explain

    class Changed:
        def __init__(self, job):
            self._job = job

        def result(self):
            return change(self._job.result())

        def __getattr__(self, name):
            return getattr(self._job, name)

    monkeypatch.setattr(ModelSnapshot, "explain", lambda *a, **k: Changed(explain(*a, **k)))


def test_attributions_that_do_not_add_up_are_a_value_in_the_reply(service, rows, monkeypatch, caplog):
    def one_off(phi):
        phi[1, 4, 0] += 0.01
        return phi

    change_explanations(monkeypatch, one_off)
    reply = service.predict(ask(rows[:3]))
    assert reply.explanations.statuses == (COMPLETE, FAILED, COMPLETE)
    assert np.isnan(reply.explanations.phi[1]).all()
    assert np.isfinite(reply.explanations.phi[[0, 2]]).all()
    assert reply.prediction.margin.shape == (3, 1)
    assert "1 of 3 rows, first in row 1" in reply.explanations.detail
    assert reply.explanations.detail in caplog.text
    for decision_id, status in zip(reply.decision_ids, reply.explanations.statuses, strict=True):
        _, explanation = service.decision(decision_id)
        assert explanation.status is status
        assert (explanation.phi is None) == (status is FAILED)
    assert service.pending_explanations() == 0  # it would fail again
    idle_with(service, 3)


def test_a_request_that_wants_no_explanation_costs_none(service, repository, rows, monkeypatch):
    monkeypatch.setattr(ModelSnapshot, "explain", _fail(AssertionError("nobody asked for it")))
    reply = service.predict(ask(rows[:2], mode=ExplanationMode.NONE))
    assert reply.explanations.statuses == (ExplanationStatus.NOT_REQUESTED,) * 2
    assert reply.explanations.phi is None
    expected = repository.get("loan").predict(np.ascontiguousarray(rows[:2]))
    assert reply.prediction.margin.tobytes() == expected.margin.tobytes()
    assert [service.decision(i)[1].status for i in reply.decision_ids] == [ExplanationStatus.NOT_REQUESTED] * 2
    assert service.pending_explanations() == 0
    idle_with(service, 2)


def test_a_request_that_requires_explanations_gets_them_or_nothing(service, rows, monkeypatch):
    required = ask(rows[:2], mode=ExplanationMode.REQUIRED)
    assert service.predict(required).explanations.statuses == (COMPLETE, COMPLETE)
    with monkeypatch.context() as patch:
        explain = ModelSnapshot.explain
        patch.setattr(ModelSnapshot, "explain", lambda *a, **k: _NeverReady(explain(*a, **k)))
        with pytest.raises(BudgetExhausted, match="requires it"):
            service.predict(dataclasses.replace(required, latency_budget_ms=10))
    idle_with(service, 2)
    change_explanations(monkeypatch, lambda phi: phi + 1)
    with pytest.raises(InternalError, match="do not add up"):
        service.predict(required)
    idle_with(service, 2)


def _fail(error):
    def explain(*_args, **_more):
        raise error

    return explain


class _NeverReady:
    def __init__(self, job):
        self._job = job

    def wait(self, timeout_s):
        time.sleep(timeout_s)
        return False

    def cancel(self):
        self._job.cancel()


class _BrokenJob:
    started_ns = finished_ns = 1

    def __init__(self, error):
        self._error = error

    def wait(self, _timeout_s):
        return True

    def cancel(self):
        pass

    def result(self):
        raise self._error


@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), RuntimeError("a worker failed")])
@pytest.mark.parametrize("where", ["at submission", "at work"])
def test_a_kernel_failure_leaves_the_prediction(service, repository, rows, monkeypatch, caplog, error, where):
    explain = _fail(error) if where == "at submission" else lambda *_: _BrokenJob(error)
    monkeypatch.setattr(ModelSnapshot, "explain", explain)
    reply = service.predict(ask(rows[:2]))
    expected = repository.get("loan").predict(np.ascontiguousarray(rows[:2]))
    assert reply.prediction.margin.tobytes() == expected.margin.tobytes()
    assert reply.explanations.statuses == (FAILED, FAILED)
    assert reply.explanations.phi is None
    assert reply.explanations.detail == f"the kernel failed: {error}"
    assert str(error) in caplog.text
    assert [service.decision(i)[1].status for i in reply.decision_ids] == [FAILED, FAILED]
    idle_with(service, 2)


def test_a_failed_prediction_records_nothing_and_cancels_its_explanation(service, rows, monkeypatch):
    jobs, explain = [], ModelSnapshot.explain

    class Watched:
        cancels = 0

        def __init__(self, job):
            self.job = job

        def cancel(self):
            self.cancels += 1
            self.job.cancel()

    def watched(*arguments, **more):
        jobs.append(Watched(explain(*arguments, **more)))
        return jobs[-1]

    def no_prediction(_self, _rows):
        raise ArithmeticError("onnxruntime has errors of its own")

    monkeypatch.setattr(ModelSnapshot, "explain", watched)
    monkeypatch.setattr(ModelSnapshot, "predict", no_prediction)
    with pytest.raises(ArithmeticError):
        service.predict(ask(rows[:2]))
    assert [job.cancels for job in jobs] == [1]
    assert jobs[0].job.wait(LONG_S)  # it ends, one way or the other
    idle_with(service, 0)


@pytest.mark.parametrize("error", [Overloaded("the ledger has no room"), Unavailable("the disk is full")])
def test_a_ledger_that_refuses_is_the_callers_error(service, rows, monkeypatch, error):
    append = service._ledger.begin
    monkeypatch.setattr(service._ledger, "begin", _fail(error))
    for _ in range(3):
        with pytest.raises(type(error)) as raised:
            service.predict(ask(rows[:2]))
        assert raised.value is error
        idle_with(service, 0)
    monkeypatch.setattr(service._ledger, "begin", append)
    assert service.predict(ask(rows[:2])).explanations.statuses == (COMPLETE, COMPLETE)
    idle_with(service, 2)


def test_only_accepted_rows_are_profiled(make, rows):
    service = make(max_rows_per_request=5, max_rows_in_flight=5)
    infinite = rows[:3].copy()
    infinite[1, 2] = np.inf
    refused = {
        "a value": (ask(infinite), InvalidInput),
        "columns": (ask(rows[:3, 1:]), InvalidInput),
        "names": (ask(rows[:3], feature_names=("x",)), InvalidInput),
        "rows": (ask(rows[:6]), InvalidInput),
        "budget": (ask(rows[:3], latency_budget_ms=-1.0), InvalidInput),
        "deadline": (ask(rows[:3], arrival=Arrival(time_remaining_s=0.0)), BudgetExhausted),
        "model": (PredictCall("other", None, rows[:3]), ModelNotFound),
    }
    for call, error in refused.values():
        with pytest.raises(error):
            service.predict(call)
        assert profiled(service) == 0
    service.predict(ask(rows[:4]))
    service._admission.enter(3)
    with pytest.raises(Overloaded):
        service.predict(ask(rows[:3]))
    service._admission.leave(3)
    assert profiled(service) == 4
    idle_with(service, 4)


def test_every_accepted_row_is_profiled_once_under_threads(service, rows):
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda i: service.predict(ask(rows[i : i + 1 + i % 3])), range(60)))
    taken = np.vstack([rows[i : i + 1 + i % 3] for i in range(60)])
    (profile,) = service._profiles._by_model.values()
    assert profile.rows == len(taken)
    np.testing.assert_array_equal(profile.missing, np.isnan(taken).sum(axis=0))
    np.testing.assert_array_equal(profile.maximum, np.nanmax(taken, axis=0))


@pytest.fixture
def begun(monkeypatch):
    """Rows of each live explanation that was begun."""
    live, explain = [], ModelSnapshot.explain

    def watched(self, pool, some, *, deferred=False):
        if not deferred:
            live.append(len(some))
        return explain(self, pool, some, deferred=deferred)

    monkeypatch.setattr(ModelSnapshot, "explain", watched)
    return live


def reckon(monkeypatch, *, explain_us=None, predict_us=None):
    """Whatever was calibrated, a row is reckoned to take so long."""
    for name, row_us in (("explain_us", explain_us), ("predict_us", predict_us)):
        if row_us is not None:
            monkeypatch.setattr(Costs, name, lambda _, rows, *_workers, row_us=row_us: rows * row_us)


def test_a_budget_below_the_reserve_leaves_what_the_prediction_takes(service, rows, begun, monkeypatch):
    """The caller waits for the prediction anyway: an explanation that is done by then is late for nothing."""
    reckon(monkeypatch, explain_us=10, predict_us=9)
    reply = service.predict(ask(rows[:2], latency_budget_ms=0.5))
    assert reply.explanations.statuses == (DEFERRED, DEFERRED)
    assert "with 0 ms left of the budget of 0.5 ms" in reply.explanations.detail
    assert reply.timings.budget_ms == 0.5
    assert begun == []

    predict = ModelSnapshot.predict

    def slow(*args):
        time.sleep(0.2)
        return predict(*args)

    monkeypatch.setattr(ModelSnapshot, "predict", slow)
    reckon(monkeypatch, explain_us=1, predict_us=100e3)
    # One row more: what was reckoned for two is known by now.
    assert service.predict(ask(rows[:3], latency_budget_ms=0.5)).explanations.statuses == (COMPLETE,) * 3


BUDGETS = {
    # (the bundle's, the service's, the request's): what is in force. The bundle's binds, the service's only fills in.
    (None, 50.0, None): 50.0,
    (None, 50.0, 900.0): 900.0,
    (None, 0.0, None): None,
    (70.0, 50.0, None): 70.0,
    (70.0, 50.0, 900.0): 70.0,
    (70.0, 50.0, 20.0): 20.0,
}


@pytest.mark.parametrize("named", BUDGETS)
def test_whose_budget_is_in_force(make, rows, named, monkeypatch):
    of_bundle, of_service, of_request = named
    service = make(default_budget_ms=of_service)
    model = service._repository.get("loan", None)
    changed = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, latency_budget_ms=of_bundle))
    monkeypatch.setattr(service._repository, "get", lambda *_: changed)
    assert service.predict(ask(rows[:1], latency_budget_ms=of_request)).timings.budget_ms == BUDGETS[named]


def test_an_explanation_that_will_not_fit_is_put_off_at_once(make, rows, monkeypatch, begun):
    service = make(reply_reserve_ms=1.0)
    reckon(monkeypatch, explain_us=100e6, predict_us=1)
    started = time.monotonic()
    reply = service.predict(ask(rows[:2], latency_budget_ms=1500.0))
    assert time.monotonic() - started < 1.4  # it did not wait for what it knew would not come
    assert reply.explanations.statuses == (DEFERRED, DEFERRED)
    told = re.fullmatch(
        r"estimated at (\S+) ms, with (\S+) ms left of the budget of 1.5e\+03 ms", reply.explanations.detail
    )
    assert float(told[1]) == pytest.approx(1.2 * 200e3, rel=0.01)
    assert 100 < float(told[2]) <= 1500
    assert reply.prediction.margin.shape == (2, 1)
    assert begun == []
    while service.pending_explanations():
        threading.Event().wait(0.005)
    assert {service.decision(i)[1].status for i in reply.decision_ids} == {COMPLETE}


def test_a_wrong_estimate_is_found_out(make, rows, monkeypatch, begun):
    service = make()
    reckon(monkeypatch, explain_us=100e6)
    statuses = [service.predict(ask(rows[:1], latency_budget_ms=60_000.0)).explanations.statuses[0] for _ in range(20)]
    assert statuses == [DEFERRED] * 15 + [COMPLETE] * 5
    # Many rows are another matter, of which nothing was learnt.
    assert service.predict(ask(rows[:9], latency_budget_ms=60_000.0)).explanations.statuses == (DEFERRED,) * 9
    assert begun == [1] * 5


def test_explanations_awaited_in_vain_teach_to_put_them_off(make, rows, monkeypatch, begun):
    service = make(reply_reserve_ms=0.0)
    reckon(monkeypatch, explain_us=10.0)
    monkeypatch.setattr(overlap, "_LONGEST_HERE_US", 0.0)  # or they would be explained without the workers
    monkeypatch.setattr("xai_service.overlap.wait_until", lambda _wait, _remaining: threading.Event().wait(0.002))
    details = [service.predict(ask(rows[:1], latency_budget_ms=100.0)).explanations.detail for _ in range(100)]
    assert details[0].startswith("not ready within")
    assert set(details) == {details[0]}  # 2 ms is all that they are known to take, and there are 100
    for _ in range(100):
        service.predict(ask(rows[:1], latency_budget_ms=1.0))
    assert len(begun) < 130
    assert "estimated at" in service.predict(ask(rows[:1], latency_budget_ms=1.0)).explanations.detail


def test_without_a_limit_no_estimate_puts_it_off(make, rows, monkeypatch):
    service = make(default_budget_ms=0.0)
    monkeypatch.setattr(Deadline, "open", lambda *_, **__: Deadline(None, None))
    reckon(monkeypatch, explain_us=1e12)
    reply = service.predict(ask(rows[:2]))
    assert reply.timings.budget_ms is None
    assert reply.explanations.statuses == (COMPLETE, COMPLETE)


def test_an_explanation_no_longer_than_the_prediction_is_begun(make, rows, monkeypatch, begun):
    service = make()
    reckon(monkeypatch, explain_us=60e6, predict_us=100e6)
    assert service.predict(ask(rows[:1], latency_budget_ms=60_000.0)).explanations.statuses == (COMPLETE,)
    assert begun == [1]


def test_closing_while_requests_are_under_way(make, rows, monkeypatch):
    """Those that had begun are answered or refused whole; none hangs, none is half recorded."""
    service = make(default_budget_ms=0.0)
    inside, go, predict = threading.Semaphore(0), threading.Event(), ModelSnapshot.predict

    def held(self, some):
        inside.release()
        assert go.wait(LONG_S)
        return predict(self, some)

    monkeypatch.setattr(ModelSnapshot, "predict", held)

    def caller(i):
        try:
            return service.predict(ask(rows[i : i + 2])).decision_ids
        except Unavailable:
            return ()

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(caller, i) for i in range(8)]
        for _ in calls:
            assert inside.acquire(timeout=LONG_S)
        closing = threading.Thread(target=service.close)
        closing.start()
        go.set()
        answered = [decision_id for call in calls for decision_id in call.result(LONG_S)]
        closing.join(LONG_S)
    assert not closing.is_alive()
    assert service._admission._rows == 0
    with pytest.raises(Unavailable, match="shutting down"):  # at the door, not at the ledger
        service.predict(ask(rows[:1]))
    with contextlib.closing(sqlite3.connect(service._config.ledger)) as db:
        recorded = {key for (key,) in db.execute("SELECT decision_id FROM entries WHERE kind = 1")}
    assert recorded == {decision_id.bytes for decision_id in answered}


def test_what_one_process_left_the_next_one_finishes(make, rows, monkeypatch):
    monkeypatch.setattr(ModelSnapshot, "explain", _fail(SystemError("stopped before it was explained")))
    first = make()
    reckon(monkeypatch, explain_us=100e6)
    ids = first.predict(ask(rows[:70], latency_budget_ms=0.1)).decision_ids
    first.close()
    monkeypatch.undo()
    second = make()
    second._deferred.wake()
    while second.pending_explanations():
        threading.Event().wait(0.005)
    assert {second.decision(i)[1].status for i in ids} == {COMPLETE}
