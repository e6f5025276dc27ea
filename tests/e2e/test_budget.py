"""The prediction never waits for the explanation past the budget, and the explanation is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import xgboost as xgb

from tests.conftest import serving
from xai_service import overlap
from xai_service.client import Client
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.types import ExplanationStatus

N_FEATURES = 20


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """A model whose explanation of many rows takes far longer than their prediction; and rows for it."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(3000, N_FEATURES)).astype(np.float32)
    y = (X[:, :8] ** 2).sum(axis=1) + X[:, 8] * X[:, 9] + rng.normal(size=3000)
    booster = xgb.train({"max_depth": 9, "eta": 0.1, "nthread": 1}, xgb.DMatrix(X, y), 300)
    repository = tmp_path_factory.mktemp("heavy")
    pack(booster, X[:200], name="heavy", out=repository)
    contributions = booster.predict(xgb.DMatrix(X[:200]), pred_contribs=True)  # of the first rows
    return repository, X[:2000], contributions


def test_too_small_a_budget_gives_the_prediction_now_and_the_explanation_later(heavy, tmp_path):
    repository, rows, contributions = heavy
    with serving(repository, tmp_path / "l.sqlite") as server, Client(server.addresses[0]) as client:
        unhurried = client.predict(rows[:2], "heavy")  # also makes sure that the model can be explained at all
        assert set(unhurried.statuses) <= {ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED}
        deadline_s = 2.0
        started = time.monotonic()
        reply = client.predict(rows[:500], "heavy", latency_budget_ms=40, timeout_s=deadline_s)
        assert time.monotonic() - started < deadline_s  # the reply came inside the caller's deadline
        assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
        assert reply.attributions is None
        assert "40 ms" in reply.detail
        assert reply.margin.shape == (500, 1)
        assert np.isfinite(reply.margin).all()
        for row in (0, 199):
            later = client.explanation(reply.decision_ids[row], wait_s=60)
            assert later.status is ExplanationStatus.COMPLETE
            np.testing.assert_allclose(later.attributions[:, 0], contributions[row, :-1], rtol=0, atol=1e-4)
            assert abs(later.base_values[0] + later.attributions.sum() - reply.margin[row, 0]) <= 1e-4


class _HeldJob:
    """An explanation that does not get ready before it is let go."""

    def __init__(self, job, go):
        self._job, self._go = job, go

    def wait(self, timeout_s):
        return self._go.wait(timeout_s) and self._job.wait(timeout_s)

    def __getattr__(self, name):
        return getattr(self._job, name)


@pytest.fixture
def hold_explanations(monkeypatch):
    """Holds back all live explanations until the event is set; the deferred ones go on as usual."""
    go, explain = threading.Event(), ModelSnapshot.explain

    def held(self, pool, rows, *, deferred=False):
        job = explain(self, pool, rows, deferred=deferred)
        return job if deferred else _HeldJob(job, go)

    monkeypatch.setattr(ModelSnapshot, "explain", held)
    monkeypatch.setattr(overlap, "_LONGEST_HERE_US", 0.0)  # or the calling thread explains what is short
    yield go
    go.set()


LIMITS = {
    "the request's": ({"latency_budget_ms": 300.0}, {}, 300),
    "the grpc deadline's": ({"timeout_s": 0.6}, {"reply_reserve_ms": 300.0}, 600),  # a deadline missed is an error
    "the default": ({}, {"default_budget_ms": 300.0}, 300),
    "the least": ({"latency_budget_ms": 300.0, "timeout_s": 5.0}, {"default_budget_ms": 4000.0}, 300),
}


@pytest.mark.usefixtures("hold_explanations")
@pytest.mark.parametrize("limit", LIMITS)
def test_the_least_limit_is_the_budget(heavy, tmp_path, limit):
    arguments, settings, budget_ms = LIMITS[limit]
    repository, rows, _ = heavy
    settings = {"default_budget_ms": 0.0, **settings}
    with serving(repository, tmp_path / "l.sqlite", **settings) as server, Client(server.addresses[0]) as client:
        client.models()  # connects, so that the deadline starts at the server
        reply = client.predict(rows[:1], "heavy", **arguments)
        assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
        # gRPC rounds the deadline that it sends upwards
        assert 0.5 * budget_ms <= reply.timings.budget_ms <= budget_ms + 20
        assert reply.timings.total_us / 1e3 < budget_ms + 1000  # it did not wait for what never came
        assert client.explanation(reply.decision_ids[0], wait_s=60).status is ExplanationStatus.COMPLETE


def test_without_any_limit_the_explanation_is_awaited(heavy, tmp_path, hold_explanations):
    repository, rows, contributions = heavy
    with (
        serving(repository, tmp_path / "l.sqlite", default_budget_ms=0.0) as server,
        Client(server.addresses[0]) as client,
    ):
        threading.Timer(0.5, hold_explanations.set).start()
        reply = client.predict(rows[:20], "heavy", timeout_s=100)
        assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
        assert reply.timings.total_us >= 0.4e6
        np.testing.assert_allclose(reply.attributions[:, :, 0], contributions[:20, :-1], rtol=0, atol=1e-4)


def _start(repository, ledger, address):
    command = [
        sys.executable,
        "-m",
        "xai_service.cli",
        "serve",
        "--json",
        "--repository",
        repository,
        "--ledger",
        ledger,
    ]
    process = subprocess.Popen([*command, "--listen", address], stdout=subprocess.PIPE, text=True)
    assert "listening" in process.stdout.readline()
    return process


def test_deferred_explanations_survive_kill_9(heavy, tmp_path):
    repository, rows, contributions = heavy
    address, ledger = f"unix:{tmp_path}/s.sock", tmp_path / "l.sqlite"
    process = _start(repository, ledger, address)
    try:
        with Client(address) as client:
            reply = client.predict(rows, "heavy", latency_budget_ms=1)
            # The last ones are explained last; the kill comes long before them.
            status = client.explanation(reply.decision_ids[-1]).status
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
    assert status is ExplanationStatus.DEFERRED

    process = _start(repository, ledger, address)
    try:
        with Client(address) as client:
            for row in (0, 100, 199):
                later = client.explanation(reply.decision_ids[row], wait_s=60)
                assert later.status is ExplanationStatus.COMPLETE
                np.testing.assert_allclose(later.attributions[:, 0], contributions[row, :-1], rtol=0, atol=1e-4)
                decision = client.decision(reply.decision_ids[row])
                np.testing.assert_array_equal(decision.input, rows[row])
                assert decision.margin.tobytes() == reply.margin[row].tobytes()
                assert decision.explanation.status is ExplanationStatus.COMPLETE
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
