"""The budget is the least of three less the reserve, and time only takes from it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.budget import Deadline, ReplyCost
from xai_service.errors import BudgetExhausted, InvalidInput

NOW = st.integers(0, 2**62)
LIMIT_MS = st.none() | st.floats(1e-3, 1e9)
RESERVE_MS = st.floats(0, 1e4)


@given(NOW, LIMIT_MS, LIMIT_MS, LIMIT_MS, RESERVE_MS)
def test_the_least_of_three_less_the_reserve(now, transport_s, requested_ms, default_ms, reserve_ms):
    deadline = Deadline.open(
        now, transport_s=transport_s, requested_ms=requested_ms, default_ms=default_ms, reserve_ms=reserve_ms
    )
    transport_ms = None if transport_s is None else 1000 * Fraction(transport_s)
    limits = [Fraction(limit) for limit in (transport_ms, requested_ms, default_ms) if limit is not None]
    if not limits or min(limits) > 10**12:
        assert deadline == Deadline(None, None)
        assert deadline.remaining_s(now) is None
        return
    assert deadline.budget_ms == pytest.approx(float(min(limits)), rel=1e-12)
    exact_ns = now + 10**6 * (min(limits) - Fraction(reserve_ms))
    assert abs(deadline.explain_until_ns - exact_ns) <= 1 + abs(exact_ns - now) * Fraction(1, 10**9)


@pytest.mark.parametrize("transport_s", [1e12, 9.2e9, math.inf])
def test_a_deadline_of_centuries_is_no_limit_and_hides_none(transport_s):
    def opened(requested_ms, default_ms):
        return Deadline.open(
            0, transport_s=transport_s, requested_ms=requested_ms, default_ms=default_ms, reserve_ms=1.0
        )

    assert opened(None, None) == Deadline(None, None)
    assert opened(20.0, None) == opened(None, 20.0) == opened(20.0, 30.0) == Deadline(19_000_000, 20.0)
    assert opened(1e300, None) == Deadline(None, None)


@given(NOW, st.floats(1e-3, 1e6), RESERVE_MS, st.lists(st.integers(0, 10**16), min_size=2))
def test_what_remains_only_shrinks_and_ends_at_zero(now, budget_ms, reserve_ms, later):
    deadline = Deadline.open(now, transport_s=None, requested_ms=budget_ms, default_ms=None, reserve_ms=reserve_ms)
    remaining = [deadline.remaining_s(now + step) for step in sorted(later)]
    assert remaining == sorted(remaining, reverse=True)
    assert all(0 <= left <= max(0.0, budget_ms - reserve_ms) / 1e3 + 1e-9 for left in remaining)
    assert deadline.remaining_s(now + int(budget_ms * 1e6) + 1) == 0


def test_a_reserve_beyond_the_budget_leaves_nothing():
    deadline = Deadline.open(7, transport_s=None, requested_ms=3.0, default_ms=None, reserve_ms=5.0)
    assert deadline.remaining_s(7) == 0
    assert deadline.budget_ms == 3.0


@pytest.mark.parametrize("requested_ms", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_budget_that_is_none_is_refused(requested_ms):
    with pytest.raises(InvalidInput, match="not a positive number") as refused:
        Deadline.open(0, transport_s=1.0, requested_ms=requested_ms, default_ms=None, reserve_ms=0)
    assert [violation.field for violation in refused.value.violations] == ["latency_budget_ms"]


@pytest.mark.parametrize("transport_s", [0.0, -1e-9, -5.0])
def test_a_passed_deadline_is_exhausted_whatever_else_is_granted(transport_s):
    with pytest.raises(BudgetExhausted):
        Deadline.open(0, transport_s=transport_s, requested_ms=1e6, default_ms=1e6, reserve_ms=0)


OBSERVATION = st.tuples(st.integers(1, 10_000), st.floats(0, 1e5))


@given(st.lists(OBSERVATION), st.integers(1, 10_000), RESERVE_MS)
def test_the_reserve_is_twice_the_weighted_mean_of_few_rows_and_of_each_of_many(observations, rows, most_ms):
    cost = ReplyCost()
    for observation in observations:
        cost.observe(*observation)
    large = [elapsed / n for n, elapsed in observations if n >= 32]
    # The weights of an exponential mean, written out: the newest a tenth, each older one 9/10 of the next.
    weights = [0.1 * 0.9 ** (len(large) - 1 - i) for i in range(len(large))]
    mean = 0.05 * 0.9 ** len(large) + sum(w * x for w, x in zip(weights, large, strict=True))
    small = [elapsed for n, elapsed in observations if n < 32]
    least_ms = most_ms
    if small:  # the first of these is the mean that it begins with
        weights = [0.9 ** (len(small) - 1)] + [0.1 * 0.9 ** (len(small) - 1 - i) for i in range(1, len(small))]
        least_ms = min(most_ms, 2 * sum(w * x for w, x in zip(weights, small, strict=True)))
    reserve = cost.reserve_ms(rows, most_ms)
    assert reserve == pytest.approx(least_ms + 2 * mean * (rows - 1), rel=1e-9, abs=1e-12)
    assert cost.reserve_ms(1, most_ms) == pytest.approx(least_ms, rel=1e-9, abs=1e-12)
    assert cost.reserve_ms(1, most_ms) <= reserve <= cost.reserve_ms(rows + 1, most_ms)


def test_one_stall_is_forgotten():
    cost = ReplyCost()
    cost.observe(100, 60_000)
    stalled = cost.reserve_ms(100, 5)
    for _ in range(200):
        cost.observe(100, 5)
    assert stalled > 10_000
    assert cost.reserve_ms(100, 5) == pytest.approx(5 + 2 * 0.05 * 99, rel=1e-3)
