"""The door that is shut for a moment: nothing is lost, nothing runs meanwhile, order is kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from xai_service.wire.gate import Gate
from xai_service.wire.pool import LightPool


class AtOnce:
    """A pool without threads."""

    def __init__(self):
        self.done = []

    def submit(self, work, *arguments):
        self.done.append(work(*arguments))


@pytest.fixture
def executor():
    return AtOnce()


def test_an_open_door_is_none(executor):
    gate = Gate(executor)
    assert gate.submit == executor.submit


def test_what_comes_while_it_is_shut_is_kept(executor):
    gate = Gate(executor)
    gate.shut()
    for i in range(5):
        assert gate.submit(lambda i: i + 10, i) is None
    assert executor.done == []
    gate.open()
    assert executor.done == [10, 11, 12, 13, 14]
    gate.submit(lambda: "after")
    assert executor.done[-1] == "after"


def test_it_can_be_shut_and_opened_again(executor):
    gate = Gate(executor)
    for turn in range(3):
        gate.shut()
        gate.submit(int, turn)
        gate.open()
        gate.open()
    assert executor.done == [0, 1, 2]


def test_nothing_is_lost_between_many_threads():
    done, lock = [], threading.Lock()

    def work(i):
        with lock:
            done.append(i)

    with ThreadPoolExecutor(8) as callers:
        pool = LightPool(2, 5000)
        gate = Gate(pool)
        asking = [callers.submit(gate.submit, work, i) for i in range(5000)]
        for _ in range(5):
            gate.shut()
            gate.open()
        for one in asking:
            one.result(60)
        pool.close()
    assert sorted(done) == list(range(5000))
