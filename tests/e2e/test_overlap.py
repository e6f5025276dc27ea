"""Prediction and explanation of one request run at the same time."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import xgboost as xgb

from tests.conftest import serving
from xai_service.client import Client
from xai_service.pack import pack
from xai_service.types import ExplanationStatus


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """500 trees of depth 6: prediction and explanation of a batch cost about the same, which shows overlap best."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    y = np.abs(X).sum(axis=1) + rng.normal(size=2000)
    booster = xgb.train({"max_depth": 6, "eta": 0.05, "nthread": 1}, xgb.DMatrix(X, y), 500)
    repository = tmp_path_factory.mktemp("heavy")
    pack(booster, X[:100], name="heavy", out=repository, latency_budget_ms=60_000)
    return repository, X


def overlaps(heavy, ledger, attempts):
    """Whether a request, before it is recorded, is nearer to its longer half run alone than to both halves' sum.

    Each time is the best of the attempts so far: others may take a CPU for a while, but not each time.
    """
    repository, X = heavy
    together, predict, explain, overlap = [], [], [], []
    with serving(repository, ledger, explain_workers=1) as server, Client(server.addresses[0]) as client:
        model, pool = server._service._repository.get("heavy", None), server._service._pool
        for attempt in range(attempts):
            rows = X[attempt % 20 * 50 : attempt % 20 * 50 + 1000]
            reply = client.predict(rows, "heavy", timeout_s=60)
            assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
            together.append((reply.timings.total_us - reply.timings.record_us) / 1e3)
            overlap.append(reply.timings.overlap_us / 1e3)
            begin = time.perf_counter()
            model.predict(rows)
            predict.append((time.perf_counter() - begin) * 1e3)
            begin = time.perf_counter()
            assert model.explain(pool, rows).wait(60)
            explain.append((time.perf_counter() - begin) * 1e3)
            longer, total = max(min(predict), min(explain)), min(predict) + min(explain)
            if attempt >= 20 and max(overlap) > 0 and min(together) - longer < total - min(together):
                return True
    return False


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot do two things at once")
def test_the_intervals_intersect_and_the_wall_time_is_nearer_to_the_longer_than_to_the_sum(heavy, tmp_path):
    assert overlaps(heavy, tmp_path / "l.sqlite", attempts=200)


def test_on_one_cpu_the_wall_time_is_the_sum(heavy, tmp_path):
    """So that the test above can fail. Threads inherit the CPUs of the one that starts them."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        assert not overlaps(heavy, tmp_path / "l.sqlite", attempts=40)
    finally:
        os.sched_setaffinity(0, cpus)
