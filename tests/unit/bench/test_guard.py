"""The guard's ratios, and the rule on runs that were recorded: quiet, busy, and with faults planted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import compare, guard_ratios, planted
from bench.guard_ratios import TURNS, bars, totals

RUNS = Path(__file__).parent / "runs"
BASELINE = RUNS / "baseline.json"
HEALTHY = sorted(RUNS.glob("healthy-*.json"))


def _round(slow=1.0, **changed):
    """Every turn takes 1 s in all, 10 ms of CPU a request and 4 ms at the median, times ``slow``."""
    one = {
        turn.name: {
            "seconds": 1.0 * slow,
            "cpu_s": 0.01 * turn.requests * slow,
            "requests": turn.requests,
            "p50_s": 0.004 * slow,
        }
        for turn in TURNS
    }
    for name, times in changed.items():
        turn = one[name.replace("_", ", ").replace("1caller", "1 caller").replace("8callers", "8 callers")]
        for key in ("seconds", "cpu_s", "p50_s"):
            turn[key] *= times
    return one


def _by_what(found):
    return {bar.what: bar for bar in found}


def test_each_ratio_is_of_what_its_name_says():
    found = _by_what(bars([_round(explain_1caller=1.5, explain_8callers=2.0, explain_batch=3.0)], "M"))
    assert {what: pytest.approx(bar.value.value) for what, bar in found.items()} == {
        "p50 of one caller: predict-only / echo": 1.0,
        "p50 of one caller: explained / predict-only": 1.5,
        "CPU of the server, 8 callers: predict-only / echo": 1.0,
        "CPU of the server, 8 callers: explained / predict-only": 2.0,
        "throughput, 8 callers: explained / predict-only": 0.5,
        "CPU of the server, 8 callers: recorded / unrecorded": 2.0,
        "p50 of batches of 100: explained / predict-only": 3.0,
        "CPU of batches of 100: explained / predict-only": 3.0,
    }
    assert all(bar.target[0] == ("≥" if "throughput" in what else "≤") for what, bar in found.items())
    assert all(bar.unit == "×" and bar.model == "M" for bar in found.values())


def test_a_machine_that_slows_down_between_rounds_changes_no_ratio():
    values = [bar.value for bar in bars([_round(slow) for slow in (1.0, 5.0, 1.0, 9.0)], "M")]
    assert all(value.low == pytest.approx(value.high) for value in values)


def test_one_round_that_was_disturbed_does_not_move_the_median():
    rounds = [_round() for _ in range(14)] + [_round(explain_1caller=50.0)]
    value = _by_what(bars(rounds, "M"))["p50 of one caller: explained / predict-only"].value
    assert (value.value, value.low, value.high) == (1.0, 1.0, 1.0)


def test_a_server_that_always_records_is_not_compared_with_one_that_does_not():
    one = _round()
    del one["explain, 8 callers, unrecorded"]
    assert len(bars([one], "M")) == len(bars([_round()], "M")) - 1
    assert [figures["name"] for figures in totals([one])] == list(one)


def test_absolute_figures_count_rows():
    figures = {one["name"]: one for one in totals([_round()])}
    assert figures["predict, batch"]["rows_per_s"] == 800
    assert figures["predict, 8 callers"]["cpu_us_per_request"] == pytest.approx(10_000)
    assert figures["echo, 1 caller"]["p50_ms"] == pytest.approx(4)


def _failing(name):
    verdicts, _ = compare.against(
        compare.read_baselines(BASELINE), compare.read_results([RUNS / name]), other_machine=False
    )
    return {verdict.ratio.what for verdict in compare.failing(verdicts)}


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_recorded_runs_on_a_busy_machine_raise_no_alarm(path):
    assert _failing(path.name) == set()


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        ("sleep", "p50 of one caller: predict-only / echo"),
        ("twice", "CPU of batches of 100: explained / predict-only"),
    ],
)
def test_recorded_runs_with_a_planted_fault_do(fault, noticed):
    document = json.loads((RUNS / f"planted-{fault}.json").read_text())
    assert document["settings"]["plant"] == fault
    assert noticed in _failing(f"planted-{fault}.json")


def test_every_fault_that_can_be_planted_was_recorded():
    assert {path.stem.removeprefix("planted-") for path in RUNS.glob("planted-*.json")} == set(planted.FAULTS)
    assert len(HEALTHY) >= 3


def test_every_reply_has_to_be_what_its_turn_asked_for():
    assert {turn.outcome for turn in TURNS if turn.asks == "explain"} == {"explained"}
    assert {turn.outcome for turn in TURNS if turn.server == "echo"} == {None}
    assert all(turn.requests % turn.callers == 0 for turn in guard_ratios.TURNS)
