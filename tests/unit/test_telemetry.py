"""What is counted of requests: exactly, by many threads at once, under labels that callers cannot choose."""

from __future__ import annotations

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from xai_service import telemetry as module
from xai_service.errors import InvalidInput, ModelNotFound, Overloaded
from xai_service.telemetry import UNKNOWN, Telemetry
from xai_service.types import Explanations, ExplanationStatus, Method, Timings

COMPLETE, DEFERRED, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED, ExplanationStatus.FAILED
MEASURED = Timings(40, 30, 25, 50.0, record_us=500, total_us=700, queue_us=3)


def reply(*statuses, residual=(), timings=MEASURED, version="1"):
    phi = np.zeros((len(statuses), 2, 1)) if COMPLETE in statuses else None
    residuals = np.array(residual, float) if residual else np.where([s is COMPLETE for s in statuses], 1e-7, np.nan)
    explanations = Explanations(statuses, phi, np.zeros(1), residuals, "", Method("", "", ""))
    model = SimpleNamespace(manifest=SimpleNamespace(name="loan", version=version))
    ids = tuple(uuid.uuid4() for _ in statuses)
    return SimpleNamespace(model=model, decision_ids=ids, explanations=explanations, timings=timings)


def only(telemetry):
    ((key, stats),) = telemetry.models()
    return key, stats


def test_a_reply_is_added_up():
    telemetry = Telemetry()
    telemetry.began()
    assert telemetry.in_flight == 1
    telemetry.done(reply(COMPLETE))
    assert telemetry.in_flight == 0
    key, stats = only(telemetry)
    assert key == ("loan", "1")
    assert (stats.answered, stats.rows, stats.refused) == (1, 1, {})
    sums = {name: getattr(stats, name).sum for name in ("predict", "explain", "overlap", "record", "total", "queue")}
    assert sums == {"predict": 40, "explain": 30, "overlap": 25, "record": 500, "total": 700, "queue": 3}
    assert stats.residual.sum == 1e-7
    assert stats.explanations == {COMPLETE: 1, DEFERRED: 0, FAILED: 0, ExplanationStatus.NOT_REQUESTED: 0}


def test_stages_that_were_not_measured_are_not_counted():
    telemetry = Telemetry()
    telemetry.done(reply(DEFERRED, DEFERRED, timings=Timings(40, None, None, None)))
    _, stats = only(telemetry)
    counts = [getattr(stats, name).count for name in ("predict", "explain", "overlap", "record", "total", "queue")]
    assert counts == [1, 0, 0, 0, 0, 0]
    assert stats.residual.count == 0
    assert stats.explanations[DEFERRED] == stats.rows == 2


def test_rows_are_counted_one_by_one():
    telemetry = Telemetry()
    telemetry.done(reply(COMPLETE, FAILED, COMPLETE, DEFERRED, residual=(1e-9, 3.0, 1e-7, np.nan)))
    telemetry.done(reply(FAILED, residual=(np.inf,)))
    _, stats = only(telemetry)
    assert (stats.answered, stats.rows) == (2, 5)
    assert [stats.explanations[status] for status in (COMPLETE, FAILED, DEFERRED)] == [2, 2, 1]
    assert stats.residual.count == 4
    assert stats.residual.sum == pytest.approx(3 + 1.01e-7)


def test_errors_are_counted_by_class_under_names_that_are_known():
    telemetry = Telemetry(lambda name, version: ("loan", version or "2") if name == "loan" else None)
    for error in (Overloaded("full"), Overloaded("full"), InvalidInput(), ZeroDivisionError(), KeyboardInterrupt()):
        telemetry.refused("loan", None, error, telemetry.began())
    telemetry.refused("'; DROP TABLE", "x" * 10_000, ModelNotFound("no such"), telemetry.began())
    telemetry.refused("loan", "1", InvalidInput())  # could not be read, and so never began
    assert telemetry.in_flight == 0
    stats = dict(telemetry.models())
    assert stats.keys() == {("loan", "2"), ("loan", "1"), UNKNOWN}
    assert stats["loan", "2"].refused == {"Overloaded": 2, "InvalidInput": 1, "InternalError": 2}
    assert stats["loan", "2"].refused_us > 0
    assert stats["loan", "1"].refused == {"InvalidInput": 1}
    assert stats["loan", "1"].refused_us == 0
    assert stats[UNKNOWN].refused == {"ModelNotFound": 1}
    assert all(one.answered == 0 for one in stats.values())


def test_what_is_returned_is_of_its_moment():
    telemetry = Telemetry()
    telemetry.done(reply(COMPLETE))
    _, before = only(telemetry)
    telemetry.done(reply(COMPLETE))
    telemetry.refused("loan", "1", Overloaded("full"))
    assert (before.answered, before.total.count, before.explanations[COMPLETE], before.refused) == (1, 1, 1, {})


def test_so_many_versions_are_kept_and_the_one_asked_longest_ago_goes(monkeypatch):
    monkeypatch.setattr(module, "MAX_MODELS", 3)
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "time_ns", lambda: next(clock))
    telemetry = Telemetry()
    for version in ("1", "2", "3", "1", "4", "1"):
        telemetry.done(reply(COMPLETE, version=version))
    assert {version: stats.answered for (_, version), stats in telemetry.models()} == {"1": 3, "3": 1, "4": 1}


def test_no_update_is_lost_among_threads():
    telemetry, rounds, threads = Telemetry(lambda *_: ("loan", "1")), 2000, 8
    statuses, before = (COMPLETE, DEFERRED), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def ask(_):
            for _ in range(rounds):
                telemetry.began()
                telemetry.done(reply(*statuses))
                telemetry.refused("loan", None, Overloaded("full"), telemetry.began())

        with ThreadPoolExecutor(threads) as pool:
            reading = [telemetry.models() for _ in pool.map(ask, range(threads)) for _ in range(3)]
    finally:
        sys.setswitchinterval(before)
    _, stats = only(telemetry)
    asked = rounds * threads
    assert (stats.answered, stats.rows, stats.refused) == (asked, 2 * asked, {"Overloaded": asked})
    assert stats.explanations[COMPLETE] == stats.explanations[DEFERRED] == asked
    assert stats.predict.counts[2] == stats.predict.count == asked  # 20 < 40 ≤ 50
    assert stats.total.sum == 700 * asked
    assert stats.residual.count == asked
    assert telemetry.in_flight == 0
    for ((_, seen),) in reading:  # each copy is of one moment
        assert seen.predict.count == seen.total.count == seen.answered == seen.rows // 2
