"""What the benchmark concludes from times: plans, ratios, bars, tables, exit codes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bench import bars, contest, kernel_bench, machine, measure, models, plot, report
from bench.contest import FLOOR, OURS, OURS_ENTRY, Entry, Failed, Remote
from bench.measure import Series


class FakeClock:
    """A contestant whose calls take what it is told; remembers what it was asked."""

    def __init__(self, name, row_us, *, once_us=0.0, fails_at=None):
        self.name, self.row_us, self.once_us, self.fails_at = name, row_us, once_us, fails_at
        self.on_cpu = 1.0
        self.asked = []

    def time(self, *, rows, calls, start):
        self.asked.append((rows, calls, start))
        if self.fails_at is not None and len(self.asked) > self.fails_at:
            raise Failed("gave up")
        return np.full(calls, self.row_us + self.once_us / rows)


def _interleave(*contestants, rows=1, rounds=4, turn_s=0.01, longest_call_s=1.0):
    failures = []
    series = measure.interleave(
        contestants,
        rows=rows,
        rounds=rounds,
        turn_s=turn_s,
        longest_call_s=longest_call_s,
        failed=lambda name, why: failures.append((name, why)),
    )
    return series, failures


def test_calls_adapt_to_the_cost_and_rows_move_on():
    fast, slow = FakeClock("fast", 10.0), FakeClock("slow", 280_000.0)
    series, _ = _interleave(fast, slow)
    assert series["fast"].n == pytest.approx(4 * 1_000, rel=0.01)
    assert series["slow"].n == 4
    starts = [start for _, _, start in fast.asked[1:]]
    assert starts == sorted(set(starts))
    assert starts[1] - starts[0] >= 990


def test_a_batch_that_would_take_too_long_has_fewer_rows():
    series, _ = _interleave(FakeClock("slow", 10_000.0), rows=1_000)
    assert series["slow"].rows == 100


def test_what_precomputes_gets_its_full_batch():
    series, _ = _interleave(FakeClock("precomputes", 100.0, once_us=50_000.0), rows=1_000)
    assert series["precomputes"].rows == 1_000
    assert series["precomputes"].median == pytest.approx(150.0)


def test_the_order_shifts_and_who_fails_is_left_out():
    order = []

    class Noted(FakeClock):
        def time(self, **asked):
            order.append(self.name)
            return super().time(**asked)

    series, failures = _interleave(Noted("a", 1.0), Noted("b", 1.0, fails_at=2), Noted("c", 1.0), rounds=3)
    assert failures == [("b", "gave up")]
    assert set(series) == {"a", "c"}
    assert "".join(order) == "abcabcbcaca"  # plans, then rounds of three, three and two


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    # The machine slows down by 10 in round 2: each round's ratio is still 3, 3, 4.
    ours = Series((np.array([1.0, 1.0, 9.0]), np.array([10.0]), np.array([1.0])), 1)
    rival = Series((np.array([3.0]), np.array([30.0]), np.array([4.0])), 1)
    assert measure.ratio(rival, ours).value == 3.0
    assert measure.ratio(rival, ours).low == 3.0
    assert measure.ratio(rival, ours).high == pytest.approx(3.8)
    assert ours.n == 5
    assert ours.median == 1.0


def _series(us):
    return Series(tuple(np.full(3, us) for _ in range(4)), 1)


def _results(ours_us, rival_us, floor_us=20.0, **extra):
    results = bars.Results(rivals=("xgboost", "shap"), isas=("avx512", "avx2"), **extra)
    for rows in (1, bars.BATCH):
        results.series["xgb-500x6", bars.PATH, rows] = {
            OURS: _series(ours_us),
            "ours, avx512": _series(ours_us),
            "ours, avx2": _series(ours_us / 0.6),
            FLOOR: _series(floor_us),
            "xgboost": _series(rival_us),
            "shap": _series(2 * rival_us),
        }
    return results


def _bar(results, what, model="XGBoost 500×d6"):
    (bar,) = [bar for bar in bars.judge(results) if bar.what.startswith(what) and bar.model == model]
    return bar


@pytest.mark.parametrize(("rival_us", "holds"), [(1_101.0, True), (1_099.0, False)])
def test_a_bar_holds_against_the_best_rival_only(rival_us, holds):
    bar = _bar(_results(20.0, rival_us), "one row, against the best rival")
    assert (bar.holds, bar.note, bar.value.value) == (holds, "xgboost", pytest.approx(rival_us / 20))


def test_at_most_bars_and_instruction_sets():
    assert _bar(_results(19.0, 1e5, floor_us=20.0), "one row, time against").holds is True
    assert _bar(_results(19.1, 1e5, floor_us=20.0), "one row, time against").holds is False
    results = _results(20.0, 1e5)
    assert _bar(results, "AVX2's speed against AVX-512's, one row").holds is False
    assert _bar(results, "AVX2's speed against AVX-512's, batch").holds is True
    assert _bar(results, "AVX2's speed against AVX-512's, batch").value.value == pytest.approx(0.6)


def test_a_rival_that_is_wrong_does_not_count():
    results = _results(20.0, 500.0, wrong={("xgb-500x6", bars.PATH, "xgboost")})
    bar = _bar(results, "one row, against the best rival")
    assert (bar.note, bar.value.value) == ("shap", 50.0)


def test_nothing_holds_when_nobody_agrees_with_ours():
    bar = _bar(_results(20.0, 1e6, unproven={("xgb-500x6", bars.PATH)}), "one row, against the best rival")
    assert bar.holds is False
    assert "no reference agrees" in bar.note


def test_what_is_not_built_has_no_number():
    results = _results(20.0, 2_000.0)
    results.skipped["xgb-500x6", bars.INTERVENTIONAL, OURS] = bars.NOT_BUILT
    results.series["xgb-500x6", bars.INTERVENTIONAL, 1] = {"shap": _series(13_000.0)}
    bar = _bar(results, "interventional, 100 background rows, one row")
    assert (bar.value, bar.holds, bar.note) == (None, None, bars.NOT_BUILT)
    assert bars.NOT_BUILT in report.table(results, bars.judge(results), markdown=False)


def _document(results):
    return report.as_json(
        results,
        bars.judge(results),
        machine=machine.describe(contest.ROOT),
        settings={"quick": True},
        models={},
        contestants={},
        agreement=[],
    )


def test_the_json_says_what_was_measured_on_what():
    results = _results(20.0, 2_000.0)
    results.skipped["xgb-500x6", bars.PATH, "shapiq"] = "not installed"
    document = json.loads(json.dumps(_document(results), allow_nan=False))
    assert document["schema"] == report.SCHEMA
    due = {"date", "cpu", "flags", "cores", "governor", "kernel", "load_average", "python", "packages"}
    assert due | {"commit", "dirty"} <= set(document["machine"])
    (ours,) = [m for m in document["measurements"] if (m["contestant"], m["rows"]) == (OURS, 1)]
    assert ours == {
        "model": "xgb-500x6",
        "mode": bars.PATH,
        "rows": 1,
        "contestant": OURS,
        "median_us": 20.0,
        "p10_us": 20.0,
        "p90_us": 20.0,
        "n": 12,
        "rows_per_call": 1,
        "on_cpu": 1.0,
        "round_medians_us": [20.0] * 4,
    }
    assert document["skipped"] == [
        {"model": "xgb-500x6", "mode": bars.PATH, "contestant": "shapiq", "reason": "not installed"}
    ]
    assert len(document["bars"]) == len(bars.judge(results))


def test_markdown_and_text_tables():
    results = _results(20.0, 2_000.0)
    lines = report.table(results, bars.judge(results), markdown=True).splitlines()
    columns = {line.count("|") for line in lines if line.startswith("| XGBoost 500×d6 |")}
    assert columns == {lines[0].count("|")}
    assert "20 / 20*" in lines[2]  # these calls had one row, not a thousand
    assert "100× / 100×" in lines[2]
    assert "FALLS SHORT" in report.table(_results(20.0, 100.0), bars.judge(_results(20.0, 100.0)), markdown=False)


def test_a_busy_machine_is_said():
    results = _results(20.0, 2_000.0)
    results.series["xgb-500x6", bars.PATH, 1][OURS] = Series((np.ones(3),), 1, on_cpu=0.5)
    assert "50% of its turns only" in report.table(results, [], markdown=False)


def test_the_plot_is_svg_with_a_dot_for_each_ratio():
    root = ET.fromstring(plot.draw(_results(20.0, 2_000.0)))  # noqa: S314 (our own text)
    dots = [circle[0].text for circle in root.iter("{http://www.w3.org/2000/svg}circle") if len(circle)]
    assert dots == ["100×", "100×", "1×", "1×"]


def test_nothing_to_plot_is_still_svg():
    ET.fromstring(plot.draw(bars.Results()))  # noqa: S314 (our own text)


@pytest.fixture
def dry(monkeypatch, tmp_path):
    """The command line with nothing measured; returns its exit code and its document."""
    monkeypatch.setattr(kernel_bench.Run, "overhead", lambda _: None)
    monkeypatch.setattr(kernel_bench.Run, "model", lambda *_: None)

    def run(*arguments):
        code = kernel_bench.main([*arguments, "--json", str(tmp_path / "out.json")])
        return code, json.loads((tmp_path / "out.json").read_text())

    return run


def test_exit_codes(dry, capsys):
    assert dry("--quick")[0] == 0
    code, document = dry("--quick", "--check")
    assert code == 1
    assert all(bar["holds"] is None for bar in document["bars"])
    assert "0 hold, 0 fall short" in capsys.readouterr().out


def test_unknown_names_are_refused(capsys):
    for option in ("--models", "--rivals", "--isa"):
        with pytest.raises(SystemExit):
            kernel_bench.main([option, "nonsense"])
    assert "not one of" in capsys.readouterr().err


def test_a_model_without_parity_is_not_timed(monkeypatch, tmp_path, capsys):
    def refuse(*_):
        raise models.ParityFailed("the ONNX file's margin is off by 0.3")

    monkeypatch.setattr(models, "prepare", refuse)
    run = kernel_bench.Run(kernel_bench.parser().parse_args(["--quick", "--cache", str(tmp_path)]))
    run.model("xgb-500x6")
    run.close()
    assert run.results.series == {}
    bar = _bar(run.results, "one row, against the best rival")
    assert bar.holds is None
    assert "off by 0.3" in bar.note
    assert "NOT TIMED" in capsys.readouterr().err


def test_ours_in_a_process_of_its_own(tmp_path):
    folder = models.prepare_stump(tmp_path)
    remote = Remote(OURS_ENTRY, tmp_path, core=-1)
    try:
        remote.load(folder)
        phi, base = remote.check(5)
        assert phi.shape == (5, 20, 1)
        assert base.tolist() == pytest.approx([0.45])
        assert remote.time(rows=10, calls=20, start=3).shape == (20,)
        assert (remote.compile(2) > 0).all()
        with pytest.raises(Failed, match="FileNotFoundError"):
            remote.load(tmp_path)
        remote.load(folder)
    finally:
        remote.close()


def test_who_cannot_take_part_says_why(tmp_path):
    for entry, why in (
        (Entry("x", "bench.rivals:XGBoost", ("newest",)), "--setup-peers"),
        (Entry("x", "bench.no_such_module:X"), "No module named"),
    ):
        remote = Remote(entry, tmp_path, core=-1)
        with pytest.raises(Failed, match=why):
            remote.load(tmp_path)
        remote.close()
