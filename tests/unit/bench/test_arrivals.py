"""Intended starts: an even rate, however late callers are, and a count of those nobody sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.arrivals import Arrivals


def test_starts_are_evenly_spaced_from_the_first():
    arrivals = Arrivals(4.0, 100.0)
    assert [arrivals.take(0.0) for _ in range(5)] == [100.0, 100.25, 100.5, 100.75, 101.0]


def test_a_late_caller_gets_the_start_that_was_meant():
    # The server hangs for 3 s: the requests of those 3 s keep their starts, so that their latency holds the queue.
    arrivals = Arrivals(10.0, 0.0)
    assert arrivals.take(0.0) == 0.0
    starts = [arrivals.take(3.0) for _ in range(3)]
    assert starts == pytest.approx([0.1, 0.2, 0.3])
    assert [3.0 - start for start in starts] == pytest.approx([2.9, 2.8, 2.7])


def test_callers_of_one_kind_share_the_sequence():
    arrivals = Arrivals(2.0, 0.0)
    first, second = arrivals.take(0.0), arrivals.take(0.0)
    assert (first, second) == (0.0, 0.5)  # one caller each, in whatever order they come


@given(rate=st.floats(0.01, 1e5), start=st.floats(0, 1e6), taken=st.integers(0, 300), after=st.floats(0, 100))
def test_none_is_lost(rate, start, taken, after):
    """Those taken and those unsent are all that were meant to have started, counted one by one."""
    arrivals = Arrivals(rate, start)
    for _ in range(taken):
        arrivals.take(start)
    now = start + min(after, 400 / rate)
    due = sum(start + number / rate < now for number in range(402))
    # Where a start and now differ by rounding alone, either count is right.
    assert abs(arrivals.unsent(now) - max(0, due - taken)) <= 1


def test_unsent_are_those_whose_time_came():
    arrivals = Arrivals(10.0, 5.0)
    assert arrivals.unsent(4.0) == arrivals.unsent(5.0) == 0
    assert arrivals.unsent(5.95) == 10
    for _ in range(4):
        arrivals.take(5.0)
    assert arrivals.unsent(5.95) == 6
    for _ in range(20):
        arrivals.take(5.0)
    assert arrivals.unsent(5.95) == 0


def test_the_millionth_start_has_not_drifted():
    arrivals = Arrivals(3.0, 0.0)
    arrivals.taken = 3_000_000
    assert arrivals.take(0.0) == 1_000_000.0


def test_a_closed_loop_starts_now_and_owes_nothing():
    arrivals = Arrivals(0.0, 0.0)
    assert arrivals.take(7.5) == 7.5
    assert arrivals.unsent(1e9) == 0


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_rates_that_make_no_sense_are_refused(rate):
    with pytest.raises(ValueError, match="arrival rate"):
        Arrivals(rate, 0.0)
