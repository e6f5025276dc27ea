"""Where to be is decided by what others use; all but the kernel's workers is there, and roams again at the end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service import perch, treeshap
from xai_service.perch import Perch, Usage, choose, read_usage

LONG_S = 60  # only waited out when a test fails
ZERO = Usage({0: 0.0, 1: 0.0, 2: 0.0}, 0.0)
SHARES = st.floats(0, 1)


def chosen(current, busy, own=0.0, workers=0.0):
    return choose(frozenset(busy), current, ZERO, Usage(busy, own + workers, workers), 1.0)


def test_the_idlest_is_taken_first():
    assert chosen(None, {0: 0.9, 1: 0.2, 2: 0.4}) == 1
    assert chosen(None, {0: 0.0, 1: 0.0}) == 0


def test_what_this_process_uses_does_not_drive_it_away():
    assert chosen(0, {0: 0.95, 1: 0.0}, own=0.9) == 0


def test_it_leaves_where_others_take_much_and_elsewhere_is_better():
    assert chosen(0, {0: 1.0, 1: 0.1}, own=0.6) == 1
    assert chosen(0, {0: 1.0, 1: 0.37}, own=0.6) == 0  # hardly better there


def test_what_its_workers_use_elsewhere_does_not_keep_it():
    assert chosen(0, {0: 0.9, 1: 0.3}, own=0.7) == 0
    assert chosen(0, {0: 0.9, 1: 0.3}, own=0.7, workers=0.3) == 1


@given(st.dictionaries(st.integers(0, 7), SHARES, min_size=1), SHARES)
def test_wherever_it_goes_others_use_less(busy, own):
    current = min(busy)
    to = chosen(current, busy, own)
    assert to in busy
    if to != current:
        assert busy[to] < max(0.0, busy[current] - own)


def test_what_the_kernel_counted_is_read(tmp_path):
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 100 20 30 5000 7 1 2 0 0 0\ncpu11 1 0 0 9 0 0 0 0 0 0\nintr 5\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert read_usage(tmp_path).busy_s == {0: 153 / tick, 11: 1 / tick}
    assert set(read_usage().busy_s) >= os.sched_getaffinity(0)


def affinities():
    """Of this process's threads: those of workers, and those of the others."""
    workers, others = [], []
    for task in Path("/proc/self/task").iterdir():
        name, cpus = (task / "comm").read_text().strip(), os.sched_getaffinity(int(task.name))
        (workers if name == perch.WORKER else others).append(cpus)
    return workers, others


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU: nothing to choose")
def test_threads_are_parted_and_roam_again(monkeypatch):
    monkeypatch.setattr(perch, "_FIRST_LOOK_S", 0.01)
    cpus = frozenset(os.sched_getaffinity(0))
    pool, stop = treeshap.WorkerPool(2), threading.Event()
    beside = threading.Thread(target=stop.wait)
    beside.start()
    one = Perch(cpus)
    try:
        one.start()
        end = time.monotonic() + LONG_S
        while one.current is None or any(other != {one.current} for other in affinities()[1]):
            assert time.monotonic() < end
            time.sleep(0.005)
        workers, _ = affinities()
        assert len(workers) >= 2
        assert all(worker == cpus - {one.current} for worker in workers)
    finally:
        one.close()
        stop.set()
        beside.join()
    assert all(thread == cpus for threads in affinities() for thread in threads)
    del pool


def test_on_a_single_cpu_nothing_is_done():
    cpus = frozenset(list(os.sched_getaffinity(0))[:1])
    one = Perch(cpus)
    one.start()
    one.close()
    assert one.current is None
