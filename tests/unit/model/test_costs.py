"""Costs are found in bounded time whatever a row takes, and a pace that is wrong does not stay so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import forests
from xai_service.model import costs
from xai_service.model.costs import BatchCost, Line, Pace, calibrate, timed
from xai_service.model.snapshot import ModelSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = np.arange(64, dtype=np.float32)[:, None]


class Machine:
    """Work whose time is known, on a clock that only it moves."""

    def __init__(self, us_of: Callable[[int], float]) -> None:
        self._us_of = us_of
        self.now_ns, self.calls = 0, list[np.ndarray[Any, Any]]()

    def work(self, rows: np.ndarray[Any, Any]) -> None:
        self.calls.append(rows)
        self.now_ns += int(1e3 * self._us_of(len(rows)))

    def timed(self, rows: np.ndarray[Any, Any] = ROWS) -> BatchCost:
        return timed(self.work, rows, lambda: self.now_ns)


def two_lines(n: int) -> float:
    return 5 + 20 * n if n < 8 else 40 + 10 * n


def test_both_lines_are_found() -> None:
    machine = Machine(two_lines)
    cost = machine.timed()
    for n in (1, 2, 7, 8, 100, 5000):
        assert cost.us(n) == pytest.approx(two_lines(n), rel=1e-3)
    assert machine.now_ns / 1e3 <= costs._LIMIT_US


def test_rows_rotate() -> None:
    machine = Machine(two_lines)
    machine.timed()
    ones = [float(rows[0, 0]) for rows in machine.calls if len(rows) == 1]
    assert len(set(ones)) == len(ones) > 2


def test_a_stall_does_not_count() -> None:
    machine = Machine(two_lines)
    machine._us_of = lambda n: two_lines(n) + (30_000 if len(machine.calls) == 3 else 0)
    assert machine.timed().us(1) == pytest.approx(two_lines(1), rel=0.5)


@given(st.floats(0, 1e8), st.floats(0, 1e8), st.integers(1, 64))
def test_time_is_bounded_by_the_limit_and_one_call(fixed_us: float, row_us: float, n_rows: int) -> None:
    machine = Machine(lambda n: fixed_us + row_us * n)
    cost = machine.timed(ROWS[:n_rows])
    assert machine.now_ns / 1e3 <= 1.5 * costs._LIMIT_US + fixed_us + row_us
    assert max(map(len, machine.calls)) <= n_rows
    assert 0 < cost.us(1) <= 1.01 * (fixed_us + row_us) + 0.01
    assert cost.us(1) <= cost.us(7)
    assert cost.us(8) <= cost.us(10_000)


def test_a_row_of_a_second_is_timed_once() -> None:
    machine = Machine(lambda n: 1e6 * n)
    cost = machine.timed()
    assert [len(rows) for rows in machine.calls] == [1]
    assert cost.us(3) == 3e6
    assert cost.us(100) == 1e8


def test_workers_share_the_rows_but_not_one_row() -> None:
    cost = BatchCost(few=Line(5, 20), many=Line(40, 10))
    assert cost.us(1, workers=4) == cost.us(1)
    assert cost.us(4, workers=2) == 5 + 40
    assert cost.us(1000, workers=4) == 40 + 2500
    assert cost.us(8, workers=100) == cost.us(8)


def test_a_snapshot_knows_its_costs(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    known = ModelSnapshot.load(write_bundle(regression)).costs
    for cost in (known.predict_us, known.explain_us):
        assert 0.1 < cost(1) < 1e5
        assert cost(1) <= cost(7)
        assert cost(8) <= cost(1000)


def test_a_large_model_is_calibrated_in_bounded_time() -> None:
    rng = np.random.default_rng(0)
    slow = forests.forest([forests.random_tree(rng, 4, 12) for _ in range(60)], 4)

    def explain(rows: Any) -> None:
        slow.predict(np.repeat(rows, 20_000, axis=0))  # a row takes some tenths of a second

    begun = time.monotonic()
    known = calibrate(lambda _: None, explain, np.zeros((64, 4), np.float32))
    assert time.monotonic() - begun < 30
    assert known.explain_us(10) == pytest.approx(10 * known.explain_us(1))


# Pace.


def served(pace: Pace, calibrated_us: float, true_us: float, budget_us: float, requests: int) -> list[str]:
    """What becomes of each request when an explanation really takes ``true_us``."""
    outcomes = []
    for _ in range(requests):
        if not pace.fits(calibrated_us, budget_us):
            outcomes.append("put off")
        elif true_us <= budget_us:
            pace.ready(calibrated_us, true_us)
            outcomes.append("ready")
        else:
            pace.late(calibrated_us, budget_us)
            outcomes.append("late")
    return outcomes


def test_what_is_calibrated_rightly_is_tried_when_it_fits_and_put_off_when_not() -> None:
    assert set(served(Pace(), 100, 100, 130, 100)) == {"ready"}
    outcomes = served(Pace(), 100, 100, 50, 160)
    assert outcomes.count("late") == 10  # one in 16 is tried all the same
    assert outcomes.count("put off") == 150


@given(st.floats(1, 1e6), st.floats(1.0, 1e4))
def test_a_machine_slower_than_calibrated_is_found_out(calibrated_us: float, slower: float) -> None:
    outcomes = served(Pace(), calibrated_us, 2 * slower * calibrated_us, slower * calibrated_us, 400)
    assert outcomes[:100].count("late") <= 60
    assert outcomes[-160:].count("late") <= 30


@given(st.lists(st.tuples(st.booleans(), st.floats(1e-2, 1e9)), max_size=60), st.floats(1, 1e6))
def test_whatever_was_observed_explanations_that_fit_come_back(
    observed: list[tuple[bool, float]], calibrated_us: float
) -> None:
    pace = Pace()
    for ready, took_us in observed:
        if ready:
            pace.ready(calibrated_us, took_us)
        else:
            pace.late(calibrated_us, took_us)
    outcomes = served(pace, calibrated_us, calibrated_us, 2 * calibrated_us, 20)
    assert outcomes[-4:] == ["ready"] * 4


def test_one_stall_puts_nothing_off() -> None:
    pace = Pace()
    pace.late(100, 1e6)
    pace.ready(100, 1e6)
    assert set(served(pace, 100, 100, 300, 50)) == {"ready"}


def test_a_lasting_slowdown_is_followed_and_left_again() -> None:
    pace = Pace()
    for _ in range(50):
        pace.ready(100, 500)
    assert pace.estimate_us(100) == pytest.approx(1.2 * 500, rel=0.05)
    for _ in range(50):
        pace.ready(100, 100)
    assert pace.estimate_us(100) == pytest.approx(1.2 * 100, rel=0.05)
