"""Both orders give the same bits, the quicker one is taken, and what cannot be stopped is short."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from xai_service import overlap, treeshap
from xai_service.budget import Deadline
from xai_service.model.costs import Order
from xai_service.model.repository import Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.overlap import Overlap
from xai_service.types import ExplanationStatus

COMPLETE, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.FAILED
NO_LIMIT = Deadline(None, None)


@pytest.fixture(scope="module")
def model(loan_repository):
    return Repository(loan_repository).get("loan")


@pytest.fixture(scope="module")
def rows(loans):
    return np.ascontiguousarray(loans.held_out.to_numpy(np.float32)[:200])


@pytest.fixture
def orders(monkeypatch):
    """Makes overlaps that explain in one order only, and says where each explanation was made."""
    made = []
    for name, place in (("explain_here", "here"), ("explain", "pool")):
        before = getattr(ModelSnapshot, name)
        monkeypatch.setattr(
            ModelSnapshot, name, lambda *a, _before=before, _place=place, **k: made.append(_place) or _before(*a, **k)
        )

    def make(*, in_turn, cpus=2):
        monkeypatch.setattr(overlap, "usable_cpus", lambda: cpus)
        monkeypatch.setattr(Order, "in_turn", lambda _: in_turn)
        return Overlap(treeshap.WorkerPool(1), 1e-5)

    return make, made


@pytest.mark.parametrize("n", [1, 7, 8, 200])
def test_both_orders_give_the_same_bits(model, rows, orders, n):
    make, made = orders
    there, here = (make(in_turn=order).predict_and_explain(model, rows[:n], NO_LIMIT) for order in (False, True))
    assert made[0] == "pool"
    assert made[1] == ("here" if n < 200 else made[1])
    for a, b in zip(there[:2], here[:2], strict=True):
        for field in dataclasses.fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if isinstance(left, np.ndarray):
                assert left.tobytes() == right.tobytes()
    assert there[1].statuses == here[1].statuses == (COMPLETE,) * n
    assert here[2].overlap_us == 0 or made[1] == "pool"


def test_without_a_core_to_spare_the_calling_thread_does_both(model, rows, orders):
    make, made = orders
    make(in_turn=False, cpus=1).predict_and_explain(model, rows[:3], NO_LIMIT)
    assert made == ["here"]


def test_where_the_workers_are_at_work_nobody_waits_for_them(model, rows, orders):
    make, made = orders
    one = make(in_turn=False)
    one._pool = SimpleNamespace(busy=True, threads=1)
    one.predict_and_explain(model, rows[:3], NO_LIMIT)
    assert made == ["here"]


def test_workers_that_do_not_come_are_not_waited_for(model, rows, orders, monkeypatch):
    class Never:
        wait = staticmethod(lambda timeout_s: timeout_s > 1.0)  # who waits for longer is told that it is ready
        cancel = staticmethod(lambda: None)

    make, made = orders
    one = make(in_turn=False)
    monkeypatch.setattr(ModelSnapshot, "explain", lambda *_, **__: Never())
    _, explanations, _ = one.predict_and_explain(model, rows[:3], NO_LIMIT)
    assert explanations.statuses == (COMPLETE,) * 3
    assert made == ["here"]


def test_what_is_long_is_given_to_workers_who_can_be_stopped(model, rows, orders, monkeypatch):
    make, made = orders
    monkeypatch.setattr(overlap, "_LONGEST_HERE_US", 0.0)
    make(in_turn=True, cpus=1).predict_and_explain(model, rows[:3], NO_LIMIT)
    assert made == ["pool"]


def test_where_little_is_left_workers_are_asked_too(model, rows, orders, monkeypatch):
    make, made = orders
    monkeypatch.setattr(overlap, "_SHARE_OF_WHAT_IS_LEFT", 1e-9)
    deadline = Deadline(time.monotonic_ns() + 60_000_000_000, 60_000.0)
    make(in_turn=True, cpus=1).predict_and_explain(model, rows[:3], deadline)
    assert made == ["pool"]


def test_a_kernel_that_fails_here_leaves_the_prediction(model, rows, orders, monkeypatch, caplog):
    make, _ = orders

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(ModelSnapshot, "explain_here", fail)
    prediction, explanations, timings = make(in_turn=True).predict_and_explain(model, rows[:2], NO_LIMIT)
    assert prediction.margin.tobytes() == model.predict(rows[:2]).margin.tobytes()
    assert explanations.statuses == (FAILED, FAILED)
    assert explanations.detail == "the kernel failed: no room"
    assert timings.explain_us is None
    assert "no room" in caplog.text


def test_the_quicker_order_is_taken_and_the_other_tried_now_and_then():
    order = Order()
    assert not order.in_turn()  # nothing is known: first one, then the other
    order.took(50, in_turn=False)
    assert order.in_turn()
    order.took(80, in_turn=True)
    taken = [order.in_turn() for _ in range(640)]
    assert 5 <= sum(taken) <= 15
    for _ in range(60):  # now all cores are at work
        order.took(200, in_turn=False)
        order.took(80, in_turn=True)
    taken = [order.in_turn() for _ in range(640)]
    assert 5 <= 640 - sum(taken) <= 15


def test_one_stall_does_not_change_the_order():
    order = Order()
    for _ in range(20):
        order.took(50, in_turn=False)
        order.took(80, in_turn=True)
    order.took(1e6, in_turn=False)
    assert sum(order.in_turn() for _ in range(64)) <= 2
