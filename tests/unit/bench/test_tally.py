"""What became of requests: quantiles against numpy's, shares, and what does not count as an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.tally import Latencies, Outcome, Tally, table


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_numpys_to_within_a_quarter_percent(q):
    times = np.random.default_rng(13).lognormal(0.5, 1.0, 20_000)
    latencies = Latencies()
    for ms in times:
        latencies.add(ms)
    assert len(latencies) == 20_000
    assert latencies.quantile(q) == pytest.approx(np.quantile(times, q, method="inverted_cdf"), rel=0.0026)


def test_quantiles_of_few_and_of_none():
    latencies = Latencies()
    assert math.isnan(latencies.quantile(0.5))
    latencies.add(0.0)  # a clock that did not move
    latencies.add(2.0)
    assert latencies.quantile(1.0) == pytest.approx(2.0, rel=0.0026)


def test_memory_does_not_grow_with_the_run():
    latencies = Latencies()
    for ms in np.random.default_rng(13).uniform(1.0, 2.0, 50_000):
        latencies.add(ms)
    assert len(latencies._counts) < 150


def test_an_explanation_counts_as_in_time_from_the_intended_start():
    tally = Tally(budget_ms=10.0)
    tally.add(Outcome.EXPLAINED, intended_s=0.0, now_s=0.009)
    tally.add(Outcome.EXPLAINED, intended_s=0.0, now_s=0.011)  # the server kept its budget; the queue before it did not
    tally.add(Outcome.DEFERRED, intended_s=1.0, now_s=1.001)
    tally.add(Outcome.SHED, intended_s=1.0, now_s=2.0)
    figures = tally.as_json(unsent=3)
    assert figures["explained_in_budget"] == 0.25
    assert (figures["explained_share"], figures["deferred_share"], figures["shed_share"]) == (0.5, 0.25, 0.25)
    assert (figures["requests"], figures["unsent"]) == (4, 3)
    assert figures["answered_per_s"] == pytest.approx(3 / 2)


def test_refusals_do_not_make_the_service_look_quick():
    tally = Tally()
    tally.add(Outcome.PREDICTED, 0.0, 0.1)
    for outcome in (Outcome.SHED, Outcome.MISSED, Outcome.ERROR):
        for _ in range(10):
            tally.add(outcome, 0.0, 0.0001)
    assert tally.as_json()["p50_ms"] == pytest.approx(100.0, rel=0.003)


def test_kinds_that_want_no_explanation_have_no_share_of_them():
    tally = Tally()
    tally.add(Outcome.PREDICTED, 0.0, 0.1)
    assert tally.as_json()["explained_in_budget"] is None


def test_the_table_has_a_line_for_each_kind_even_of_nothing():
    text = table([{"name": "Explained", **Tally(10.0).as_json()}, {"name": "Batch", **_busy().as_json(unsent=1234)}])
    heading, nothing, batch = text.splitlines()
    assert "explained in budget" in heading
    assert nothing.startswith("Explained  0")
    assert "50.00%" in batch
    assert "1,234" in batch


def _busy():
    tally = Tally(10.0, rows=100)
    tally.add(Outcome.EXPLAINED, 0.0, 0.001)
    tally.add(Outcome.FAILED, 0.0, 2000.0)
    return tally
