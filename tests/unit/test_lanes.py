"""Bounds hold under threads, wake-ups are not lost, and nobody waits past a deadline."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.errors import Overloaded, Unavailable
from xai_service.lanes import Admission, DeferredLane, wait_until


@contextlib.contextmanager
def admitted(admission, rows):
    admission.enter(rows)
    try:
        yield
    finally:
        admission.leave(rows)


LONG_S = 60  # only waited out when a test fails


def test_admission_never_passes_its_bound_and_ends_empty():
    admission, lock = Admission(10), threading.Lock()
    inside, peak, refused = 0, 0, 0

    def succeed_or_not(i):
        if i % 3 == 0:
            raise KeyError

    def caller(seed):
        nonlocal inside, peak, refused
        for i in range(300):
            rows = 1 + (seed * 7 + i) % 6
            try:
                with admitted(admission, rows):
                    with lock:
                        inside += rows
                        peak = max(peak, inside)
                    if i % 5 == 0:
                        threading.Event().wait(0.0001)  # lets others in
                    with lock:
                        inside -= rows
                    succeed_or_not(i)
            except KeyError:
                pass
            except Overloaded:
                with lock:
                    refused += 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(caller, range(8)))
    assert 0 < peak <= 10
    assert refused > 0
    with admitted(admission, 10):  # whatever was raised inside, every place is free again
        pass


def test_admission_is_exact_at_its_bound():
    admission = Admission(10)
    told = "10 rows are under way and 1 more would pass the limit of 10"
    with admitted(admission, 4), admitted(admission, 6), pytest.raises(Overloaded, match=told):
        admission.enter(1)
    with admitted(admission, 4), pytest.raises(Overloaded):
        admission.enter(7)
    assert admission.rows == 0
    with admitted(admission, 4), admitted(admission, 3):
        assert admission.rows == 7
    with pytest.raises(Overloaded):
        admission.enter(11)


def test_a_closed_admission_lets_those_inside_out_and_nobody_in():
    admission = Admission(10)
    with admitted(admission, 5):
        admission.close()
        with pytest.raises(Unavailable, match="shutting down"):
            admission.enter(1)
    admission.close()
    with pytest.raises(Unavailable):
        admission.enter(1)


def test_a_request_that_waited_is_not_explained_and_then_refused():
    admission = Admission(10)
    waited = {0.0: True, 7.9: True, 8.1: False, 11.9: False}
    for waited_ms, explained in waited.items():
        assert admission.enter(1, waited_ms=waited_ms, budget_ms=20) is explained
    with pytest.raises(Overloaded, match="too long for its budget") as refused:
        admission.enter(1, waited_ms=12.1, budget_ms=20)
    assert refused.value.retry_after_s == pytest.approx(0.0121)
    assert admission.enter(1, waited_ms=390)  # without a budget as with one of a second
    with pytest.raises(Overloaded):
        admission.enter(1, waited_ms=610)
    assert admission.enter(1, waited_ms=2, budget_ms=0.001)  # however small the budget is: this is no overload
    with pytest.raises(Overloaded):
        admission.enter(1, waited_ms=6.1, budget_ms=0.001)
    assert admission._rows == 6


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 14))
def test_who_has_a_lower_priority_is_shed_sooner(one, other, waited_ms):
    def is_taken(priority):
        try:
            Admission(10).enter(1, priority=priority, waited_ms=waited_ms, budget_ms=20)
        except Overloaded:
            return False
        return True

    assert is_taken(min(one, other)) >= is_taken(max(one, other))


def test_a_caller_who_takes_more_than_a_share_is_shed_sooner():
    admission = Admission(10_000)
    for i in range(400):
        admission.enter(1, caller="flood" if i % 4 else f"small {i % 8}")
    for _ in range(3):
        admission.enter(1, caller="small 0", waited_ms=7, budget_ms=20)
        with pytest.raises(Overloaded):
            admission.enter(1, caller="flood", waited_ms=7, budget_ms=20)
    for _ in range(600):  # once it has been quiet for a while, it is as good as any
        admission.enter(1, caller="small 0")
        admission.enter(1, caller="small 4")
    admission.enter(1, caller="flood", waited_ms=7, budget_ms=20)
    assert len(admission._of_caller) == 3  # who has gone is not remembered


def test_a_single_caller_has_no_share_to_keep_to():
    admission = Admission(10_000)
    for _ in range(300):
        admission.enter(1, caller="only", waited_ms=11, budget_ms=20)


@pytest.fixture
def lane():
    """Makes lanes, and closes them."""
    made = []

    def make(work):
        made.append(DeferredLane(work))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_work_starts_by_itself_and_goes_on_until_it_says_no(lane):
    calls, done = [], threading.Event()

    def work():
        calls.append(None)
        if len(calls) == 5:
            done.set()
        return len(calls) < 5

    one = lane(work)
    one.wake()  # before the start: nothing to it
    one.start()
    assert done.wait(LONG_S)
    one.close()
    assert len(calls) in (5, 6)  # the early wake-up may have been the start's, or one more


def test_a_wake_up_amid_the_work_is_not_lost(lane):
    begun, go, calls = threading.Semaphore(0), threading.Semaphore(0), []

    def work():
        calls.append(None)
        begun.release()
        go.acquire(timeout=LONG_S)
        return False

    one = lane(work)
    one.start()
    for _ in range(3):
        assert begun.acquire(timeout=LONG_S)
        one.wake()  # the work under way may have looked already
        go.release()
    assert begun.acquire(timeout=LONG_S)
    go.release()
    one.close()
    assert len(calls) == 4


def test_no_wake_up_is_lost(lane):
    todo, done, n = deque(), threading.Semaphore(0), 3000

    def work():
        if todo:
            todo.popleft()
            done.release()
        return False  # each item needs a wake-up of its own, or shares one with those that wait with it

    def drain():
        more = work()
        while todo:
            more = work()
        return more

    one = lane(drain)
    one.start()
    for i in range(n):
        todo.append(i)
        one.wake()
        if i % 3 == 0:
            assert done.acquire(timeout=LONG_S)  # idle again, or about to be: the dangerous moment
    for _ in range(n - len(range(0, n, 3))):
        assert done.acquire(timeout=LONG_S)


@pytest.mark.parametrize("error", [Unavailable("the disk is full"), ZeroDivisionError("a bug")])
def test_an_error_is_logged_and_tried_again_without_a_wake_up(lane, monkeypatch, caplog, error):
    monkeypatch.setattr(DeferredLane, "_PAUSE_S", 0.01)
    calls, recovered = [], threading.Event()

    def work():
        calls.append(None)
        if len(calls) < 4:
            raise error
        recovered.set()
        return False

    lane(work).start()
    assert recovered.wait(LONG_S)
    assert len(calls) == 4
    told = [record for record in caplog.records if record.name == "xai_service.lanes"]
    assert len(told) == 3
    assert all(str(error) in record.getMessage() + str(record.exc_info) for record in told)


def test_close_does_not_wait_out_the_pause_after_an_error(lane, monkeypatch):
    monkeypatch.setattr(DeferredLane, "_PAUSE_S", 1e6)
    called = threading.Event()

    def work():
        called.set()
        raise Unavailable("for long")

    one = lane(work)
    one.start()
    assert called.wait(LONG_S)
    one.close()
    assert not one._thread.is_alive()


def test_close_ends_a_lane_that_waits(lane):
    idle = threading.Event()

    def work():
        idle.set()
        return False

    one = lane(work)
    one.start()
    assert idle.wait(LONG_S)
    one.close()
    one.close()
    one.wake()
    assert not one._thread.is_alive()


def test_close_lets_the_batch_under_way_end_and_begins_no_other(lane):
    begun, go, calls = threading.Event(), threading.Event(), []

    def work():
        calls.append("begun")
        begun.set()
        go.wait(LONG_S)
        calls.append("ended")
        return True  # there would be more

    one = lane(work)
    one.start()
    assert begun.wait(LONG_S)
    closing = threading.Thread(target=one.close)
    closing.start()
    while not one._closing.is_set():
        threading.Event().wait(0.001)
    go.set()
    closing.join(LONG_S)
    assert calls == ["begun", "ended"]


def test_close_before_start_is_harmless(lane):
    one = lane(lambda: pytest.fail("was called"))
    one.close()
    one.start()
    one._thread.join(LONG_S)
    assert not one._thread.is_alive()


class Clock:
    """A job that is over at ``over_s``, on a clock that only its own waits move; waits may be late, never early."""

    def __init__(self, over_s, late_s=0.0):
        self.now, self.over_s, self.late_s, self.waits = 0.0, over_s, late_s, []

    def wait(self, timeout_s):
        self.waits.append(timeout_s)
        if self.over_s <= self.now + timeout_s:
            self.now = max(self.now, self.over_s)
            return True
        self.now += timeout_s + self.late_s
        return False


@given(st.floats(0, 300), st.floats(0, 300), st.floats(0, 5))
def test_a_job_is_waited_for_until_the_deadline_and_no_longer(over_s, deadline_s, late_s):
    clock = Clock(over_s, late_s)
    ready = wait_until(clock.wait, lambda: max(0.0, deadline_s - clock.now))
    if over_s < deadline_s - 1e-9:
        assert ready
    if not ready:
        assert (
            clock.now <= deadline_s + 6 * late_s + 1e-6
        )  # 300 s are waited for in at most five pieces and a last look
        assert over_s >= clock.now - 6 * late_s - 1e-6


@given(st.floats(0, 1000))
def test_without_a_deadline_the_job_is_waited_for_in_bounded_pieces(over_s):
    clock = Clock(over_s)
    assert wait_until(clock.wait, lambda: None)
    assert max(clock.waits) <= 60
    assert clock.now == over_s


def test_a_deadline_that_shrinks_is_honoured():
    clock, left = Clock(1e9), iter([300.0, 200.0, 0.5, 0.0])
    assert not wait_until(clock.wait, lambda: next(left))
    assert clock.waits == [60.0, 60.0, 0.5, 0.0]


def test_with_no_time_left_the_job_is_looked_at_once():
    assert wait_until(Clock(0).wait, lambda: 0.0)
    late = Clock(1)
    assert not wait_until(late.wait, lambda: 0.0)
    assert late.waits == [0.0]
