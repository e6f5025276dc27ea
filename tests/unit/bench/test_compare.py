"""The rule that baselines are held to: planted regressions, noise, absence, other machines, other layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import compare
from bench.compare import failing, judge, read_results

ROOT = Path(__file__).resolve().parents[3]
KEPT = sorted((ROOT / "bench" / "results").glob("kept-*.json"))
MACHINE = {
    "cpu": "Processor",
    "flags": ["avx2", "fma"],
    "cores": 2,
    "commit": "0123456789abcdef",
    "date": "2030-01-01T00:00:00+00:00",
}


def _bar(what="a / b", value=2.0, low=1.9, high=2.1, target="≥ 1×", **extra):
    return {
        "what": what,
        "model": "M",
        "target": target,
        "value": {"value": value, "low": low, "high": high},
        "unit": "×",
        **extra,
    }


def _file(folder, *bars, machine=MACHINE, name="result.json", **extra):
    path = folder / name
    path.write_text(json.dumps({"schema": 1, "machine": machine, "bars": list(bars), **extra}))
    return path


def _states(folder, before, after, **rule):
    baseline = read_results([_file(folder, *before, name="before.json")])
    return [v.state for v in judge(baseline, read_results([_file(folder, *after, name="after.json")]), **rule)]


@pytest.mark.parametrize(
    ("target", "value", "state"),
    [
        # The spread is 0.05 and the floor decides: 2.0 / 1.75 is 14.3 % worse, 2.0 / 1.73 is 15.6 %.
        ("≥ 1×", 1.75, "holds"),
        ("≥ 1×", 1.73, "WORSE"),
        ("≥ 1×", 2.5, "better"),
        ("≤ 1×", 2.29, "holds"),
        ("≤ 1×", 2.31, "WORSE"),
        ("≤ 1×", 1.5, "better"),
        ("≤ baseline", 2.31, "WORSE"),
    ],
)
def test_worse_in_the_direction_of_the_target_beyond_the_floor(tmp_path, target, value, state):
    assert _states(tmp_path, [_bar(target=target)], [_bar(value=value, target=target)]) == [state]


@pytest.mark.parametrize(("value", "state"), [(1.44, "holds"), (1.41, "WORSE")])
def test_a_noisy_ratio_is_allowed_twice_its_spread(tmp_path, value, state):
    noisy = _bar(low=1.6, high=2.4)  # a spread of 0.2: 2.0 / 1.4286 is 40 % worse
    assert _states(tmp_path, [noisy], [_bar(value=value, low=1.4, high=2.6)]) == [state]


def test_the_rules_two_numbers_can_be_given(tmp_path):
    after = [_bar(value=1.85)]
    assert _states(tmp_path, [_bar()], after) == ["holds"]
    assert _states(tmp_path, [_bar()], after, k=1.0, floor=0.05) == ["WORSE"]
    assert _states(tmp_path, [_bar()], after, k=2.0, floor=0.05) == ["holds"]


def test_the_noise_of_the_result_excuses_nothing(tmp_path):
    assert _states(tmp_path, [_bar()], [_bar(value=1.5, low=0.5, high=3.0)]) == ["WORSE"]


def test_noise_that_was_recorded_raises_no_alarm_and_a_regression_of_twice_that_does(tmp_path):
    """1,000 runs of 30 rounds with a noise of 10 % a round, against a baseline of one such run."""
    rng = np.random.default_rng(13)

    def run(name, factor=1.0):
        low, middle, high = np.quantile(factor * rng.lognormal(0.0, 0.1, 30), (0.1, 0.5, 0.9))
        return read_results([_file(tmp_path, _bar(value=middle, low=low, high=high), name=name)])

    baseline = run("before.json")
    assert not any(failing(judge(baseline, run("after.json"))) for _ in range(1_000))
    allowed = judge(baseline, run("after.json"))[0].allowed
    assert allowed < 0.35
    assert all(failing(judge(baseline, run("after.json", 1 / (1 + 2 * allowed)))) for _ in range(100))


def test_what_is_missing_fails_unless_the_run_was_partial(tmp_path):
    both = [_bar(), _bar("c / d")]
    baseline, result = (read_results([_file(tmp_path, *bars)]) for bars in (both, both[:1]))
    verdicts = judge(baseline, result)
    assert [v.state for v in verdicts] == ["holds", "MISSING"]
    assert [v.ratio.what for v in failing(verdicts)] == ["c / d"]
    assert failing(verdicts, partial=True) == []
    # So does one that could not be measured.
    result = read_results([_file(tmp_path, both[0], {**both[1], "value": None})])
    assert [v.state for v in judge(baseline, result)] == ["holds", "MISSING"]


def test_what_is_new_is_said_and_fails_nothing(tmp_path):
    assert _states(tmp_path, [_bar()], [_bar(), _bar("c / d")]) == ["holds", "new"]


def test_absolute_times_are_never_compared(tmp_path):
    absolute = _bar("load", value=100.0, low=90.0, high=110.0, target="≤ 50 ms")
    before, after = ([_bar(), {**absolute, "unit": " ms", "value": v}] for v in (absolute["value"], None))
    assert _states(tmp_path, before, after) == ["holds"]


def test_several_runs_are_one_result_of_medians(tmp_path):
    runs = [(2.0, 1.9, 2.1), (2.4, 2.2, 2.5), (1.9, 1.5, 2.2)]
    paths = [_file(tmp_path, _bar(value=v, low=a, high=b), name=f"{v}.json") for v, a, b in runs]
    (ratio,) = read_results(paths).ratios.values()
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.9, 2.2)


# ---- the command line ----


def test_update_keeps_other_machines_and_says_what_was_measured(tmp_path, capsys):
    other = {**MACHINE, "flags": ["avx512f", "avx2"], "commit": "fedcba"}
    store = tmp_path / "baselines" / "b.json"
    assert compare.main([str(store), str(_file(tmp_path, _bar())), "--update"]) == 0
    assert compare.main([str(store), str(_file(tmp_path, _bar(value=3, high=4), machine=other)), "--update"]) == 0
    assert compare.main([str(store), str(_file(tmp_path, _bar(value=2.05))), "--update"]) == 0
    entries = compare.read_baselines(store)
    assert [(e.machine, e.commit, e.runs) for e in entries] == [
        ("Processor, avx2, 2 cores", "0123456789abcdef", 1),
        ("Processor, avx512, 2 cores", "fedcba", 1),
    ]
    assert entries[0].ratios["a / b", "M"].median == 2.05
    assert "1 ratios of 1 runs on Processor, avx2, 2 cores" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "code"), [(2.0, 0), (1.5, 1)])
def test_the_exit_code_says_whether_a_ratio_is_worse(tmp_path, capsys, value, code):
    store = tmp_path / "b.json"
    compare.main([str(store), str(_file(tmp_path, _bar())), "--update"])
    assert compare.main([str(store), str(_file(tmp_path, _bar(value=value, low=1.4)))]) == code
    out = capsys.readouterr().out
    assert ("WORSE" in out) == bool(code)
    assert ("1 of 1 ratios fail" in out) == bool(code)


@pytest.mark.parametrize("changed", [{"cpu": "Another"}, {"cores": 8}, {"flags": ["avx512f", "avx2"]}])
def test_another_kind_of_machine_is_refused_or_allowed_twice_as_much(tmp_path, capsys, changed):
    store = tmp_path / "b.json"
    compare.main([str(store), str(_file(tmp_path, _bar())), "--update"])
    for value, code in ((1.6, 0), (1.5, 1)):
        result = str(_file(tmp_path, _bar(value=value, low=1.4), machine={**MACHINE, **changed}))
        assert compare.main([str(store), result]) == 2
        assert "no baseline of this kind of machine" in capsys.readouterr().err
        assert compare.main([str(store), result, "--other-machine"]) == code
        assert "another kind" in capsys.readouterr().out


def test_of_other_kinds_the_likest_counts(tmp_path):
    store = tmp_path / "b.json"
    for cpu, value in (("Fast", 4.0), ("Slow", 1.0)):
        bar = _bar(value=value, low=value, high=value)
        compare.main([str(store), str(_file(tmp_path, bar, machine={**MACHINE, "cpu": cpu})), "--update"])
    third = {**MACHINE, "cpu": "Third"}
    for value, code in ((0.9, 0), (0.7, 1)):
        result = str(_file(tmp_path, _bar(value=value, low=value, high=value), machine=third))
        assert compare.main([str(store), result, "--other-machine"]) == code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", '"schema": 1'),
        ('{"schema": 2, "bars": []}', '"schema": 1'),
        ('{"schema": 1, "bars": {}}', '"bars"'),
        ('{"schema": 1, "bars": [{"what": 1}]}', "not laid out"),
        ('{"schema": 1, "bars": [7]}', "not laid out"),
        ('{"schema": 1, "bars": []}', "no ratio"),
        (json.dumps({"schema": 1, "bars": [_bar()]}), "machine"),
        (json.dumps({"schema": 1, "bars": [_bar()], "machine": {"cpu": "x"}}), "machine"),
        (json.dumps({"schema": 1, "bars": [_bar(value=0.0)], "machine": MACHINE}), "no ratio"),
        (json.dumps({"schema": 1, "bars": [_bar(value="two")], "machine": MACHINE}), "not laid out"),
        (json.dumps({"schema": 1, "bars": [_bar(low=3.0)], "machine": MACHINE}), "no ratio"),
    ],
)
def test_other_layouts_are_told_apart(tmp_path, capsys, text, says):
    path = tmp_path / "odd.json"
    path.write_text(text)
    assert compare.main([str(tmp_path / "b.json"), str(path), "--update"]) == 2
    error = capsys.readouterr().err
    assert "odd.json" in error
    assert says in error
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 9, "baselines": []}', None])
def test_so_are_other_baselines(tmp_path, capsys, text):
    store = tmp_path / "b.json"
    if text is not None:
        store.write_text(text)
    assert compare.main([str(store), str(_file(tmp_path, _bar()))]) == 2
    assert "b.json" in capsys.readouterr().err


def test_results_of_two_kinds_of_machines_are_not_mixed(tmp_path, capsys):
    paths = [
        str(_file(tmp_path, _bar(), machine={**MACHINE, "cores": cores}, name=f"{cores}.json")) for cores in (2, 4)
    ]
    assert compare.main([str(tmp_path / "b.json"), *paths, "--update"]) == 2
    assert "2 cores" in capsys.readouterr().err


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_benchmarks_results_are_read(tmp_path, path, capsys):
    store = tmp_path / "kept.json"
    assert compare.main([str(store), str(path), "--update"]) == 0
    assert compare.main([str(store), str(path)]) == 0
    document = json.loads(path.read_text())
    measured = [bar for bar in document["bars"] if bar["value"] is not None and bar["unit"] == "×"]
    assert f"{len(measured)} ratios" in capsys.readouterr().out
    slower = measured[0]
    factor = 1 / 3 if slower["target"].startswith("≥") else 3
    slower["value"] = {name: factor * value for name, value in slower["value"].items()}
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(document))
    assert compare.main([str(store), str(worse)]) == 1
