"""What the serving benchmark concludes from loads: bars, tables, JSON, the page, exit codes; and one small real run."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import xgboost

from bench import (
    contest,
    machine,
    serving_bars,
    serving_bench,
    serving_cases,
    serving_html,
    serving_lab,
    serving_load,
    serving_plots,
    serving_report,
    serving_soak,
)
from bench import serving_results as r
from bench.contest import Failed
from bench.serving_load import Latencies, Load
from bench.serving_model import NAME, Served
from bench.serving_process import ServerProcess
from bench.serving_results import Key, Results
from xai_service.pack import pack

NOBODY = Latencies(np.empty(0), np.empty(0), np.empty(0))


def a_load(*, rate=1_000.0, us=100.0, p99_us=None, seconds=1.0, explained=1.0, shed=0, late=0, **more):
    """Calls that took ``us``, one in a hundred of them ``p99_us``; ``late`` were answered beyond the budget."""
    n = round(rate * seconds)
    low = np.array([us, p99_us or 2 * us], float)
    latencies = Latencies(low, low * 1.001, np.array([n * 0.985, n * 0.015]), us, float(low[1]))
    fields = {
        "seconds": seconds,
        "due": n + shed,
        "statuses": {"OK": n, **({"RESOURCE_EXHAUSTED": shed} if shed else {})},
        "reasons": {},
        "answered_in_time": n,
        **dict.fromkeys(("not_sent", "unanswered", "expired"), 0),
        "within_budget": n - late,
        "explained": round(n * explained),
        "explained_within_budget": round(n * explained) - late,
        "rows": {"complete": n, "deferred": 0, "failed": 0, "not_requested": 0},
        "ok": latencies,
        "failed": NOBODY,
        "lag": latencies,
        "each_second": [[n, 0, us]],
        "generator_cpu": 0.1,
    }
    return Load(**{**fields, **more})


def everything():  # noqa: C901 (a list of measurements)
    """A run in which every bar holds."""
    results = Results(agreement={r.NAIVE: 1e-7, r.EXPLAINED: 0.0})
    rates = {r.ECHO: 9_000, r.PREDICT: 6_000, r.EXPLAINED: 5_800, r.RECORDED: 4_000, r.AIO: 4_500, r.NAIVE: 150}
    p50s = {r.ECHO: 200, r.PREDICT: 300, r.EXPLAINED: 330, r.RECORDED: 900, r.AIO: 280, r.NAIVE: 6_000}
    for where in (r.SPARE, r.ONE):
        for who, rate in rates.items():
            for n in serving_cases.CALLERS:
                for _ in range(3):
                    results.add(Key(r.CALLERS, where, who, callers=n), a_load(rate=rate, us=p50s[who]))
        for who, rate in ((r.PREDICT, 600), (r.EXPLAINED, 400), (r.RECORDED, 300), (r.NAIVE, 2)):
            key = Key(r.BATCH, where, who, rows=serving_cases.BATCH_ROWS, callers=serving_cases.BATCH_CALLERS)
            for _ in range(3):
                results.add(key, a_load(rate=rate))
    for who in (r.EXPLAINED, r.RECORDED):
        for share in serving_cases.SHARES:
            load = a_load(p99_us=300.0, shed=500 if share > 1 else 0)
            results.add(Key(r.LOAD, r.SPARE, who, share=share), load, 1_000 * share)
        results.add(Key(r.BUDGET, r.SPARE, who, share=0.7), a_load(), 700)
        results.add(Key(r.DEADLINE, r.SPARE, who, share=1.5), a_load(shed=500), 1_500)
        for where in (r.SPARE, r.ONE):
            for company, p99_us in ((r.ALONE, 500.0), (r.WITH_BATCH, 900.0)):
                key = Key(r.BESIDE, where, who, share=serving_cases.BESIDE_SHARE, company=company)
                results.add(key, a_load(p99_us=p99_us), 300)
        mb = {"idle_mb": 140.0, "decisions": [0, 5_000, 1_000_000], "mb": [140.0, 143.0, 144.0]}
        results.memory[who] = mb
    results.soak = {
        "seconds": 600.0,
        "reloads": 39,
        "due": 1_680_000,
        "failed": 0,
        "why": "",
        "growth": 0.01,
        "memory_s": [0.0, 1.0, 2.0],
        "memory_mb": [140.0, 141.0, 141.0],
        "each_second": [[2_800, 0, 9e3]] * 3,
    }
    return results


def bar(results, what, of):
    (found,) = [b for b in serving_bars.judge(results) if what in b.what and b.model == of]
    return found


def test_every_bar_of_the_issue_can_hold():
    bars = serving_bars.judge(everything())
    assert [b.what for b in bars if b.holds is not True] == []
    assert len(bars) == 9 + 2 * 5 + 2 * 2 + 2


def test_nothing_measured_is_nothing_proven():
    bars = serving_bars.judge(Results(skipped={("", r.NAIVE): "no shap here"}))
    assert {b.holds for b in bars} == {None}
    assert {b.note for b in bars if "naive service" in b.what and "p50" in b.what} == {"no shap here"}
    serving_report.table(document(Results()), markdown=True)
    serving_html.page(document(Results()))


@pytest.mark.parametrize(
    ("what", "of", "key", "load"),
    [
        ("p50 of one caller: explained", r.SPARE, Key(r.CALLERS, r.SPARE, r.EXPLAINED, callers=1), {"us": 341.0}),
        ("16 callers: explained / predict", r.SPARE, Key(r.CALLERS, r.SPARE, r.EXPLAINED, callers=16), {"rate": 5_510}),
        ("16 callers: explained / predict", r.ONE, Key(r.CALLERS, r.ONE, r.EXPLAINED, callers=16), {"rate": 4_790}),
        ("predict-only / raw echo", r.SPARE, Key(r.CALLERS, r.SPARE, r.PREDICT, callers=16), {"rate": 5_840}),
        ("raw echo / plain", r.SPARE, Key(r.CALLERS, r.ONE, r.AIO, callers=16), {"rate": 6_010}),
        ("100: explained / predict", r.SPARE, Key(r.BATCH, r.SPARE, r.EXPLAINED, 100, 4), {"rate": 389}),
        ("16 callers: explained / naive", r.SPARE, Key(r.CALLERS, r.SPARE, r.NAIVE, callers=16), {"rate": 265}),
        ("100: explained / naive", r.SPARE, Key(r.BATCH, r.SPARE, r.NAIVE, 100, 4), {"rate": 4}),
        ("naive service / explained", r.SPARE, Key(r.CALLERS, r.SPARE, r.NAIVE, callers=1), {"us": 4_600.0}),
        ("p99 / p50", r.RECORDED, Key(r.LOAD, r.SPARE, r.RECORDED, share=0.7), {"p99_us": 402.0}),
        ("deadlines missed", r.EXPLAINED, Key(r.DEADLINE, r.SPARE, r.EXPLAINED, share=1.5), {"late": 2, "shed": 500}),
        ("explained within", r.RECORDED, Key(r.BUDGET, r.SPARE, r.RECORDED, share=0.7), {"late": 2}),
        ("explained within", r.EXPLAINED, Key(r.BUDGET, r.SPARE, r.EXPLAINED, share=0.7), {"shed": 2}),
        (
            *("beside batches", f"{r.RECORDED}, {r.ONE}"),
            Key(r.BESIDE, r.ONE, r.RECORDED, share=0.3, company=r.WITH_BATCH),
            {"p99_us": 1_600.0},
        ),
    ],
)
def test_a_little_too_slow_falls_short(what, of, key, load):
    results = everything()
    assert bar(results, what, of).holds is True
    results.loads[key] = [a_load(**load)] * len(results.loads[key])
    assert bar(results, what, of).holds is False


def test_memory_bars():
    results = everything()
    results.memory[r.EXPLAINED] = {"idle_mb": 161.0, "decisions": [0, 10, 50_000], "mb": [161.0, 165.0, 166.0]}
    assert bar(results, "idle", r.EXPLAINED).holds is False
    few = bar(results, "growth of resident memory after", r.EXPLAINED)
    assert few.holds is None  # so few decisions prove no growth of 5 % after a million
    assert "after 50,000" in few.note
    results.memory[r.EXPLAINED]["mb"][-1] = 170.0
    assert bar(results, "growth of resident memory after", r.EXPLAINED).holds is False


def test_soak_bars():
    results = everything()
    results.soak |= {"failed": 1, "why": "1 UNAVAILABLE ()", "growth": 0.06}
    assert bar(results, "failed of 1,680,000", r.RECORDED).holds is False
    assert bar(results, "soak of 600 s at 70%, 39 reloads: memory grew", r.RECORDED).holds is False
    results.soak |= {"failed": 0, "reloads": 0}
    assert bar(results, "failed of", r.RECORDED).holds is False


def test_a_ratio_is_taken_round_by_round():
    results = everything()
    for who, rates in ((r.EXPLAINED, (950, 95, 930)), (r.PREDICT, (1_000, 100, 1_000))):  # the machine slowed down once
        key = Key(r.CALLERS, r.SPARE, who, callers=16)
        results.loads[key] = [a_load(rate=rate) for rate in rates]
    value = bar(results, "16 callers: explained / predict", r.SPARE).value
    assert (value.low, value.value, value.high) == pytest.approx((0.93, 0.95, 0.95))


@pytest.mark.parametrize(
    ("flawed", "why"),
    [
        ({"explained": 0.99}, "not explained"),
        ({"statuses": {"OK": 5_000, "INTERNAL": 800}, "reasons": {"INTERNAL": "a bug"}}, "800 INTERNAL (a bug)"),
        ({"not_sent": 1}, "left out 3"),
    ],
)
def test_a_bar_is_not_held_by_calls_that_went_wrong(flawed, why):
    results = everything()
    key = Key(r.CALLERS, r.SPARE, r.EXPLAINED, callers=16)
    results.loads[key] = [a_load(rate=5_800, **flawed)] * 3
    found = bar(results, "16 callers: explained / predict", r.SPARE)
    assert found.holds is False
    assert why in found.note


def test_who_fell_behind_was_not_below_saturation():
    """All are late then, and p99 / p50 looks fine."""
    results = everything()
    key = Key(r.LOAD, r.SPARE, r.RECORDED, share=0.7)
    results.loads[key] = [a_load(us=100_000.0, p99_us=150_000.0, answered_in_time=900)]
    found = bar(results, "p99 / p50", r.RECORDED)
    assert found.holds is False
    assert "fell behind" in found.note


def test_a_rival_that_computes_something_else_proves_nothing():
    results = everything()
    results.agreement[r.NAIVE] = 0.3
    assert bar(results, "16 callers: explained / naive", r.SPARE).holds is False
    assert bar(results, "16 callers: explained / predict", r.SPARE).holds is True


def test_few_answers_of_a_closed_loop_count_by_littles_law():
    load = a_load(rate=3, us=500_000.0, answered_in_time=1, callers=4)
    assert load.rate == pytest.approx(8.0)
    assert a_load(rate=1_000, callers=4).rate == 1_000
    assert a_load(rate=3, callers=0).rate == 3  # an open loop


def document(results):
    args = serving_bench.parser().parse_args(["--quick"])
    plain = {name: value for name, value in vars(args).items() if isinstance(value, (int, str, bool))}
    return json.loads(
        json.dumps(
            serving_report.as_json(
                results,
                serving_bars.judge(results),
                machine=machine.describe(contest.ROOT),
                settings={**plain, "transport": "TCP on the loopback", "seconds": 600.0},
                models={"title": "XGBoost 500×d6"},
                contestants={name: one.detail for name, one in serving_lab.CONTESTANTS.items()},
            ),
            allow_nan=False,
        )
    )


def test_the_json_says_what_was_measured_on_what():
    results = everything()
    results.skipped["", r.NAIVE] = "no shap <here>"
    made = document(results)
    assert (made["schema"], made["kind"]) == (1, "serving")
    assert {"date", "cpu", "cores", "commit", "dirty", "packages", "load_average"} <= set(made["machine"])
    (one,) = serving_report.find(made, case=r.CALLERS, placement=r.SPARE, contestant=r.EXPLAINED, callers=16)
    assert one["rate_per_s"] == 5_800
    assert one["round_rates_per_s"] == [5_800.0] * 3
    assert one["p50_us"] == pytest.approx(330, rel=0.01)
    assert one["statuses"] == {"OK": 3 * 5_800}
    assert one["explained_share"] == 1.0
    (shed,) = serving_report.find(made, case=r.LOAD, contestant=r.RECORDED, share=1.5)
    assert shed["shed_share"] == pytest.approx(1 / 3)
    assert shed["offered_per_s"] == 1_500
    assert made["skipped"] == [{"case": "", "contestant": r.NAIVE, "reason": "no shap <here>"}]
    assert len(made["bars"]) == len(serving_bars.judge(results))


def test_tables_have_all_contestants_and_bars():
    results = everything()
    results.loads[Key(r.CALLERS, r.SPARE, r.EXPLAINED, callers=16)] = [a_load(rate=10)]
    made = document(results)
    text = serving_report.table(made, markdown=True)
    assert "5,800 (0.33 / 0.66)" in text
    assert "FALLS SHORT" in text
    assert all(f"| {who} |" in text for who in serving_lab.CONTESTANTS)
    rows = [line for line in text.splitlines() if line.startswith("| 150% | explained |")]
    assert len(rows) == 1
    assert "33.3 %" in rows[0]
    assert serving_report.table(made, markdown=False) != text


def test_parts_that_were_not_asked_for_have_no_lines():
    results = everything()
    results.memory.clear()
    made = document(results)
    assert "resident memory, idle" not in serving_report.table(made, markdown=False)
    assert serving_report.verdict(made) == "21 hold, 0 fall short, 4 not measured."
    results.skipped["memory", r.RECORDED] = "its server died"
    assert "its server died" in serving_report.table(document(results), markdown=False)


def test_shares_near_0_and_1_keep_their_digits():
    assert [serving_report.percent(s) for s in (0.0, 0.00012, 0.5, 0.99985, 1.0, None)] == [
        *("0.0 %", "0.012 %", "50.0 %", "99.985 %", "100.0 %", "-"),
    ]


class Page(HTMLParser):
    """Everything that a page would load, and the tags that are open."""

    VOID = ("meta", "br", "circle", "line", "rect", "polyline")

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.loads += [(tag, name) for name, _ in attributes if name in ("src", "href", "action", "data")]
        if tag in ("script", "link", "iframe", "img", "object"):
            self.loads.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        while self.open and self.open[-1] in self.VOID and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_loads_nothing_and_says_everything():
    results = everything()
    results.skipped["", "an <odd> one"] = "because & so"
    made = document(results)
    text = serving_html.page(made)
    page = Page(text)
    assert page.loads == []
    assert "url(" not in text
    assert "an <odd> one: because & so" in "".join(page.text)
    assert "an <odd>" not in text
    for found in made["bars"]:
        assert found["what"] in page.text
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 4 + 4 + 1 + 1 + 3
    for drawing in drawings:
        ET.fromstring(drawing)  # noqa: S314 (our own text)


def test_plots_show_each_point_where_it_is():
    axis = serving_plots.Axis("x", zero=False)
    line = serving_plots.Line("a", [(1.0, 10.0), (2.0, 100.0), (3.0, None), (4.0, 1_000.0)])
    drawn = ET.fromstring(serving_plots.lines("t", axis, serving_plots.Axis("y", log=True), [line]))  # noqa: S314
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert [c[0].text for c in circles] == ["a, 1: 10", "a, 2: 100", "a, 4: 1000"]
    heights = [float(c.get("cy")) for c in circles]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)  # the axis is logarithmic
    bars = ET.fromstring(serving_plots.bars("t", [("g", [("a", 10.0), ("b", 5.0), ("c", None)])], "{:g}".format))  # noqa: S314
    widths = [float(rect.get("width")) for rect in bars.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]
    assert widths == pytest.approx([widths[0], widths[0] / 2])
    assert serving_plots.lines("t", axis, axis, [serving_plots.Line("a", [])]) == ""
    assert serving_plots.bars("t", [], "{:g}".format) == ""


# The command line.


def test_a_run_is_shown_again_and_judged(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document(everything())))
    assert serving_bench.main(["--show", str(path), "--check"]) == 0
    assert "25 hold, 0 fall short" in capsys.readouterr().out
    assert Page((tmp_path / "run.html").read_text()).loads == []
    slow = everything()
    slow.loads[Key(r.CALLERS, r.SPARE, r.EXPLAINED, callers=16)] = [a_load(rate=10)]
    path.write_text(json.dumps(document(slow)))
    assert serving_bench.main(["--show", str(path), "--check"]) == 1
    assert serving_bench.main(["--show", str(path)]) == 0


@pytest.mark.parametrize(
    "arguments", [["--only", "nonsense"], ["--rounds", "0"], ["--soak", "nan"], ["--set", "x"], ["--quick=1"]]
)
def test_what_means_nothing_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        serving_bench.main(arguments)
    assert "error" in capsys.readouterr().err


def test_settings_and_paces():
    args = serving_bench.parser().parse_args(["--quick", "--rounds", "4", "--set", "rpc_threads=8", "--set", "a=b"])
    assert dict(args.set) == {"rpc_threads": 8, "a": "b"}
    pace = serving_bench.pace_of(args)
    assert (pace.rounds, pace.load_rounds, pace.turn_s) == (4, 4, serving_cases.QUICK.turn_s)


def test_one_core_is_not_enough(capsys):
    assert serving_bench.main(["--server-core", "0", "--load-core", "0"]) == 2
    assert "a CPU each" in capsys.readouterr().err


def test_a_generator_that_cannot_be_made_is_an_error(monkeypatch, tmp_path, capsys):
    def refuse(_):
        raise serving_load.LoadFailed("needs a C++ compiler")

    monkeypatch.setattr(serving_load, "compiled", refuse)
    assert serving_bench.main(["--cache", str(tmp_path), "--server-core", "0", "--load-core", "1"]) == 1
    assert "needs a C++ compiler" in capsys.readouterr().err


def test_the_order_of_turns_shifts():
    class Said:
        def say(self, text):
            self.text = text

    turns = list(serving_cases._rounds(Said(), "x", "abcde", 3))
    assert "".join(turns) == "abcdecdeabeabcd"


# One small real run.


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small model in place of the real one, which takes half a minute to train and pack."""
    folder = tmp_path_factory.mktemp("served")
    rows = np.random.default_rng(13).normal(size=(300, 20)).astype(np.float32)
    y = (rows[:, 0] * rows[:, 1] > 0).astype(int)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(rows, y), 10)
    booster.save_model(folder / "model.ubj")
    pack(booster, rows, name=NAME, out=folder / "models", version="1")
    pack(booster, rows, name=NAME, out=folder / "spare", version="2")
    onnx = folder / "models" / NAME / "1" / "model.onnx"
    return Served(folder / "models", folder / "spare", onnx, folder / "model.ubj", rows)


@pytest.fixture(scope="module")
def bench(served, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    cpus = sorted(serving_bench.os.sched_getaffinity(0))
    with serving_lab.lab(
        *(serving_load.compiled(cache), served, cache),
        server_cpu=cpus[0],
        load_cpu=cpus[-1],
        unix=True,
        settings={"rpc_threads": 16},
        say=lambda _: None,
    ) as made:
        yield made


def _contestants():
    off = {who for who, one in serving_lab.CONTESTANTS.items() if one.record == "off" and who != r.ECHO}
    return set(serving_lab.CONTESTANTS) - (set() if serving_lab.CAN_SWITCH_RECORD_OFF else off)


PACE = serving_cases.Pace(1, 0.15, 1, 0.2, (0.3, 0.7), 150, 0.15)


def test_a_real_run(bench):
    """All servers start, and what is sent to each is answered by what it should be."""
    for name in ("callers", "batch", "memory"):
        serving_cases.PARTS[name](bench, PACE, (r.SPARE,))
    results = bench.results
    assert {key.contestant for key in results.loads if key.case == r.CALLERS} == _contestants()
    for key, loads in results.loads.items():
        for load in loads:
            assert load.answered > 0
            assert load.wrong == load.shed == load.malformed == 0
            states = {state for state, n in load.rows.items() if n}
            due = {r.ECHO: set(), r.AIO: set(), r.PREDICT: {"not_requested"}}.get(key.contestant, {"complete"})
            assert states == due
            assert sum(load.rows.values()) in (0, load.answered * key.rows)
    assert results.agreement[r.NAIVE] < serving_bars.AGREEMENT
    assert results.memory[r.RECORDED]["decisions"][-1] >= 150
    assert 20 < results.memory[r.RECORDED]["idle_mb"] < 1_000
    made = document(results)
    serving_report.table(made, markdown=False)
    Page(serving_html.page(made))


def test_echoes_have_the_size_of_a_predict_only_reply(bench):
    bodies = list(serving_lab._messages(bench._echo_bodies()))
    request = next(serving_lab._messages(bench._bodies.of("none")))
    server = bench.server(r.RECORDED, r.SPARE)
    reply = bench.call(server, serving_lab.PREDICT, request)
    assert abs(len(bodies[0]) - len(reply)) < 60  # timings are left out where they are 0
    assert bench.call(bench.server(r.ECHO, r.SPARE), serving_lab.ECHO, b"anything") == b"anything"


def test_open_loops_and_big_batches(bench):
    who = r.RECORDED
    full = serving_cases.saturation(bench, who, r.SPARE, 0.15)
    assert full > 0
    with bench.flood(who, r.SPARE, 500):
        load = bench.load(who, r.SPARE, rate=20, seconds=0.3, settle=False)
    assert load.due > 0
    assert load.wrong == 0
    serving_cases.beside(bench, PACE, (r.ONE,))
    keys = {key for key in bench.results.loads if key.case == r.BESIDE and key.contestant == who}
    assert {key.company for key in keys} == {r.ALONE, r.WITH_BATCH}
    serving_cases.load_curve(bench, PACE, (r.SPARE,))
    cases = {key.case for key in bench.results.loads if key.contestant == who}
    assert {r.LOAD, r.BUDGET, r.DEADLINE} <= cases


def test_growth_is_of_the_end_against_the_beginning():
    warming_up, flat = [100.0] * 10, [140.0] * 80
    assert serving_soak._growth(warming_up + flat + [141.0] * 10) == pytest.approx(1 / 140)
    assert serving_soak._growth(warming_up + flat + [154.0] * 10) == pytest.approx(0.1)
    assert serving_soak._growth([140.0]) == 0.0


def test_a_soak_reloads_and_fails_nothing(bench):
    serving_soak.soak(bench, 4.0, share=0.15)  # what a busy machine carries too
    found = bench.results.soak
    assert found["reloads"] >= 2
    assert found["failed"] == 0
    assert found["due"] > 0
    assert len(found["memory_mb"]) >= 3
    Page(serving_html.page(document(bench.results)))


def test_without_the_switch_what_needs_it_is_left_out(bench, monkeypatch):
    monkeypatch.setattr(serving_lab, "CAN_SWITCH_RECORD_OFF", False)
    monkeypatch.setattr(bench, "results", Results())
    serving_cases.batches(bench, PACE, (r.SPARE,))
    assert bench.results.skipped == {("", r.PREDICT): serving_lab.NO_SWITCH, ("", r.EXPLAINED): serving_lab.NO_SWITCH}
    assert {b.note for b in serving_bars.judge(bench.results) if "predict-only" in b.what} == {serving_lab.NO_SWITCH}


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(Failed, match="no_such_setting"):
        ServerProcess(
            *("ours", sorted(serving_bench.os.sched_getaffinity(0))),
            {
                "listen": ["127.0.0.1:0"],
                "repository": str(tmp_path),
                "ledger": str(tmp_path / "l"),
                "no_such_setting": 1,
            },
        )


def test_who_dies_is_left_out_with_its_last_words(bench):
    server = bench.server(r.AIO, r.ONE)
    server.signal(serving_soak.signal.SIGKILL)
    server._process.wait()
    serving_cases.callers(bench, serving_cases.Pace(1, 0.05, 1, 0.1, (), 1, 0.1), (r.ONE,))
    assert "its server died" in bench.results.skipped[r.CALLERS, r.AIO]
    assert Key(r.CALLERS, r.ONE, r.ECHO, callers=1) in bench.results.loads
