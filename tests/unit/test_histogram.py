"""Buckets, against numpy's own counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.histogram import Histogram, one_two_five

BOUNDS = (-1.0, 0.0, 0.5, 10.0)
values = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(-1e6, 1e6)), max_size=50)


@given(values)
def test_each_bucket_holds_what_is_not_above_its_bound(some):
    one_by_one, at_once = Histogram(BOUNDS), Histogram(BOUNDS)
    for value in some:
        one_by_one.observe(value)
    at_once.observe_all(np.array(some))
    assert at_once.counts == one_by_one.counts
    for histogram in (one_by_one, at_once):
        expected = [(bound, sum(value <= bound for value in some)) for bound in (*BOUNDS, math.inf)]
        assert list(histogram.cumulative()) == expected
        assert histogram.count == len(some)
        assert histogram.sum == pytest.approx(math.fsum(some), abs=1e-6)


def test_what_is_no_number_is_left_out_and_what_is_infinite_out_of_the_sum():
    histogram = Histogram(BOUNDS)
    histogram.observe_all(np.array([np.nan, np.inf, 0.25, -np.inf]))
    assert histogram.counts == [1, 0, 1, 0, 1]
    assert histogram.sum == 0.25
    histogram.observe_all(np.array([np.nan]))
    histogram.observe_all(np.array([]))
    assert histogram.count == 3


def test_a_copy_is_of_its_moment_and_histograms_add_up():
    histogram = Histogram(BOUNDS)
    histogram.observe(0.1)
    copy = histogram.copy()
    histogram.observe(7.0)
    assert (copy.counts, copy.sum) == ([0, 0, 1, 0, 0], 0.1)
    copy.add(histogram)
    assert copy.counts == [0, 0, 2, 1, 0]
    assert copy.sum == pytest.approx(7.2)


def test_bounds_of_decades():
    assert one_two_five(-1, 1) == (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
