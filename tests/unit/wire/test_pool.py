"""Every call is run, in order; what may wait is bounded and learnt."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from xai_service.wire import pool as pool_module
from xai_service.wire.pool import LightPool

LONG_S = 60  # only waited out when a test fails


@pytest.fixture
def make():
    made = []

    def pool(threads, max_waiting):
        made.append(LightPool(threads, max_waiting))
        return made[-1]

    yield pool
    for one in made:
        one.close()


def test_calls_are_run_in_the_order_submitted(make):
    pool, seen = make(1, 10), []
    for i in range(100):
        pool.submit(lambda i, j: seen.append((i, j)), i, -i)
    pool.close()
    assert seen == [(i, -i) for i in range(100)]


def test_a_call_that_raises_takes_no_thread_with_it(make, caplog):
    pool, done = make(1, 10), threading.Event()

    def fail():
        raise SystemExit("as some library might")

    pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(LONG_S)
    assert "as some library might" in caplog.text


def test_there_is_room_for_so_many(make):
    pool, go = make(2, 3), threading.Event()
    for i in range(5):
        assert pool.has_room(), i
        pool.submit(go.wait, LONG_S)
    assert pool.waiting == 3
    assert not pool.has_room()
    go.set()
    pool.close()
    assert pool.has_room()
    assert pool.waiting == 0


def test_who_finds_calls_late_makes_the_queue_shorter_and_it_grows_again(make):
    pool, go = make(1, 64), threading.Event()
    for _ in range(41):
        pool.submit(go.wait, LONG_S)
    pool.room.late(pool.waiting)
    assert not pool.has_room()  # 40 wait, and 20 may
    go.set()
    pool.close()
    for _ in range(64):
        pool.room.late(pool.waiting)
    assert pool.has_room()  # there is always room for what a thread takes at once


def test_a_thread_knows_when_its_call_came(make):
    pool, found = make(1, 10), []
    before = time.monotonic_ns()
    pool.submit(time.sleep, 0.02)
    pool.submit(lambda: found.append((pool.begin(), time.monotonic_ns())))
    after = time.monotonic_ns()
    pool.close()
    ((arrived, worked_on),) = found
    assert before <= arrived <= after
    assert worked_on - arrived >= 10_000_000
    assert pool.begin() == 0  # of no call of its


def test_no_call_is_lost_among_threads(make):
    pool, lock, count = make(4, 10_000), threading.Lock(), [0]

    def one():
        with lock:
            count[0] += 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: [pool.submit(one) for _ in range(500)], range(4)))
    pool.close()
    assert count == [2000]
    assert pool._under_way == 0


def test_callers_who_are_slow_to_send_get_threads_beside_the_others(make, monkeypatch):
    monkeypatch.setattr(pool_module, "_SLOW_S", 0.001)
    pool, sent = make(2, 100), threading.Event()
    for _ in range(20):  # each waits for its message, as gRPC would have it
        pool.submit(sent.wait, LONG_S)
        time.sleep(0.002)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(LONG_S)
    assert pool._n_threads > 2
    sent.set()
    end = time.monotonic() + LONG_S
    while pool._n_threads > 2:
        assert time.monotonic() < end
        time.sleep(0.001)
    pool.close()
    assert pool._under_way == 0


def test_calls_that_are_worked_on_get_no_more_threads(make, monkeypatch):
    monkeypatch.setattr(pool_module, "_SLOW_S", 0.0)
    pool, go, begun = make(2, 100), threading.Event(), threading.Semaphore(0)

    def work():
        pool.begin()
        begun.release()
        go.wait(LONG_S)

    for _ in range(2):
        pool.submit(work)
        assert begun.acquire(timeout=LONG_S)
    for _ in range(20):
        pool.submit(work)
    assert pool._n_threads == 2
    go.set()


def test_there_is_an_end_to_threads(make, monkeypatch):
    monkeypatch.setattr(pool_module, "_SLOW_S", 0.0)
    monkeypatch.setattr(pool_module, "_MOST_THREADS", 3)
    pool, sent = make(2, 100), threading.Event()
    for _ in range(40):
        pool.submit(sent.wait, LONG_S)
        time.sleep(0.001)
    assert pool._n_threads == 5
    sent.set()
