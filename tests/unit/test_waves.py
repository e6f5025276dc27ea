"""Nobody is left behind, nobody waits where few are under way, and many share a wave."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from xai_service import waves
from xai_service.waves import Waves

LONG_S = 60  # only waited out when a test fails


class Request:
    def __init__(self, name=None):
        self.name = name
        self.answers = 0
        self.wave = 0
        self.answered = threading.Lock()
        self.answered.acquire()


def answering(log, pause_s=0.0):
    def answer(wave):
        log.append(len(wave))
        time.sleep(pause_s)
        for request in wave:
            request.answers += 1
            request.wave = len(wave)

    return answer


def test_a_single_caller_travels_alone_and_waits_once_in_a_while():
    log, waited = [], []
    road = Waves(answering(log), 8)
    should_wait = road._should_wait
    road._should_wait = lambda: waited.append(should_wait()) or waited[-1]
    for _ in range(600):
        request = Request()
        road.ride(request)
        assert request.answers == 1
    assert log == [1] * 600
    assert sum(waited) == 2


def test_many_share_waves_until_they_are_few():
    log = []
    road = Waves(answering(log, 0.002), 32)
    road._alone = waves._TRY_EVERY

    def caller(_):
        for _ in range(40):
            request = Request()
            road.ride(request)
            assert request.answers == 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(caller, range(12)))
    assert sum(log) == 480
    assert max(log) >= 4
    assert len(log) < 240
    del log[:]
    for _ in range(200):
        road.ride(Request())
    assert set(log) == {1}
    assert road._mean < waves._WORTH_IT  # and so most of them did not wait


def test_a_wave_that_is_full_departs_at_once(monkeypatch):
    monkeypatch.setattr(waves, "_GAP_S", LONG_S)
    log = []
    road = Waves(answering(log), 4)
    road._mean = 10.0
    with ThreadPoolExecutor(8) as threads:
        began = time.monotonic()
        list(threads.map(lambda _: road.ride(Request()), range(8)))
    assert log == [4, 4]
    assert time.monotonic() - began < LONG_S


def test_whoever_rides_is_answered_once_whatever_the_timing(monkeypatch):
    monkeypatch.setattr(waves, "_GAP_S", 1e-5)  # so that waves leave as others board
    monkeypatch.setattr(waves, "_WORTH_IT", 0.0)
    log = []
    road = Waves(answering(log), 5)
    requests = [[Request() for _ in range(400)] for _ in range(8)]

    def caller(own):
        for request in own:
            road.ride(request)
            assert request.answers == 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(caller, requests))
    assert sum(log) == 3200
    assert max(log) <= 5
    assert road._boarded == []


def test_a_wave_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(waves, "_GAP_S", 0.05)
    monkeypatch.setattr(waves, "_LONGEST_S", 0.2)
    log, stop = [], threading.Event()
    road = Waves(answering(log), 10_000)
    road._mean = 100.0

    def keep_coming():
        while not stop.is_set():
            threading.Thread(target=road.ride, args=(Request(),), daemon=True).start()
            time.sleep(0.01)

    source = threading.Thread(target=keep_coming)
    source.start()
    try:
        road.ride(Request())
    finally:
        stop.set()
        source.join()
    assert 2 <= log[0] < 200


@pytest.mark.parametrize("size", [1, 3])
def test_the_answer_is_there_when_the_ride_is_over(size, monkeypatch):
    monkeypatch.setattr(waves, "_GAP_S", LONG_S)
    road = Waves(answering([], 0.01), size)
    road._mean = 10.0
    requests = [Request() for _ in range(size)]
    with ThreadPoolExecutor(size) as threads:
        list(threads.map(road.ride, requests))
    assert [(one.answers, one.wave) for one in requests] == [(1, size)] * size


def test_an_answer_that_fails_leaves_nobody_waiting(monkeypatch):
    monkeypatch.setattr(waves, "_GAP_S", LONG_S)

    def fail(_wave):
        raise SystemExit

    road, raised = Waves(fail, 3), []
    road._mean = 10.0

    def ride(_):
        try:
            road.ride(Request())
        except SystemExit:
            raised.append(1)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(ride, range(3)))
    assert raised == [1]  # who led knows
