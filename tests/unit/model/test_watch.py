"""A watch looks in its time and when rung, one look at a time, whatever becomes of one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from xai_service.model.watch import Watch

LONG_S = 60  # only waited out when a test fails


@pytest.fixture
def watched():
    """Makes a started watch; closes it."""
    made = []

    def make(look, every_s):
        made.append(Watch(look, every_s))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_looks_again_and_again_even_after_an_error(watched, caplog):
    looks = threading.Semaphore(0)

    def look():
        looks.release()
        raise ZeroDivisionError("once more")

    watched(look, 0.001)
    for _ in range(5):
        assert looks.acquire(timeout=LONG_S)
    assert "once more" in caplog.text


def test_without_a_period_it_looks_when_rung_only(watched):
    looks = threading.Semaphore(0)
    watch = watched(looks.release, 0)
    assert not looks.acquire(timeout=0.05)
    for _ in range(3):
        watch.ring()
        assert looks.acquire(timeout=LONG_S)


def test_however_often_it_is_rung_meanwhile_one_more_look_is_enough(watched):
    begun, go, count = threading.Semaphore(0), threading.Event(), []

    def look():
        count.append(threading.current_thread().name)
        begun.release()
        assert go.wait(LONG_S)

    watch = watched(look, 0)
    watch.ring()
    assert begun.acquire(timeout=LONG_S)
    for _ in range(1000):
        watch.ring()
    go.set()
    assert begun.acquire(timeout=LONG_S)
    assert not begun.acquire(timeout=0.05)
    assert count == ["xai-watch"] * 2


def test_signal_handlers_may_ring(watched):
    looks = threading.Semaphore(0)
    watch = watched(looks.release, 0)
    before = signal.signal(signal.SIGHUP, lambda *_: watch.ring())
    try:
        for _ in range(200):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert looks.acquire(timeout=LONG_S)


def test_closing_waits_for_the_look_under_way(watched):
    begun, over = threading.Event(), []
    watch = watched(lambda: (begun.set(), threading.Event().wait(0.05), over.append(watch.closing)), 0)
    watch.ring()
    assert begun.wait(LONG_S)
    watch.close()
    assert over == [True]
    Watch(lambda: None, 0).close()  # never started
