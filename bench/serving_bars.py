"""The bars that the service is held to, and whether they hold."""

from __future__ import annotations

import operator
from collections.abc import Callable

from bench import serving_results as r
from bench.bars import Bar
from bench.measure import Ratio
from bench.serving_cases import BATCH_CALLERS, BATCH_ROWS, BESIDE_SHARE, NORMAL, OVERLOAD
from bench.serving_load import Load
from bench.serving_results import Key, Results

AGREEMENT = 1e-4  # of the largest attribution; what is computed wrongly differs by far more
MOST_WRONG = 1e-3  # calls of a turn that may go wrong, or lack their explanation, before it proves nothing
KEPT_UP = 0.97  # of the calls due below saturation are answered meanwhile; else it was not below saturation
IDLE_MB, GROWTH = 160.0, 0.05
_MILLION = 1_000_000


def judge(results: Results) -> list[Bar]:
    """Returns all bars, those that could not be measured included."""

    def calls(who: str, where: str, n: int) -> Key:
        return Key(r.CALLERS, where, who, callers=n)

    def batch(who: str) -> Key:
        return Key(r.BATCH, r.SPARE, who, rows=BATCH_ROWS, callers=BATCH_CALLERS)

    compare = _Judge(results)
    at_16 = "throughput, 16 callers"
    best_aio = max(
        (calls(r.AIO, where, 16) for where in (r.SPARE, r.ONE)),
        key=lambda key: sum(load.rate for load in results.loads.get(key, ())),
    )
    bars = [
        compare(
            *("p50 of one caller: explained less predict-only", r.SPARE, 40.0, r.p50, operator.sub, " µs"),
            left=calls(r.EXPLAINED, r.SPARE, 1),
            right=calls(r.PREDICT, r.SPARE, 1),
            at_most=True,
        ),
        *(
            compare(
                *(f"{at_16}: explained / predict-only", where, least, _rate, operator.truediv),
                left=calls(r.EXPLAINED, where, 16),
                right=calls(r.PREDICT, where, 16),
            )
            for where, least in ((r.SPARE, 0.92), (r.ONE, 0.80))
        ),
        compare(
            *(f"{at_16}: predict-only / raw echo", r.SPARE, 0.65, _rate, operator.truediv),
            left=calls(r.PREDICT, r.SPARE, 16),
            right=calls(r.ECHO, r.SPARE, 16),
        ),
        compare(
            *(f"{at_16}: raw echo / plain grpc.aio's", r.SPARE, 1.5, _rate, operator.truediv),
            left=calls(r.ECHO, r.SPARE, 16),
            right=best_aio,
            note=f"grpc.aio at its best, with {best_aio.placement}",
        ),
        compare(
            *(f"throughput, batches of {BATCH_ROWS}: explained / predict-only", r.SPARE, 0.65, _rate, operator.truediv),
            left=batch(r.EXPLAINED),
            right=batch(r.PREDICT),
        ),
        compare(
            *(f"{at_16}: explained / naive service", r.SPARE, 22.0, _rate, operator.truediv),
            left=calls(r.EXPLAINED, r.SPARE, 16),
            right=calls(r.NAIVE, r.SPARE, 16),
        ),
        compare(
            *(
                f"throughput, batches of {BATCH_ROWS}: explained / naive service",
                r.SPARE,
                130.0,
                _rate,
                operator.truediv,
            ),
            left=batch(r.EXPLAINED),
            right=batch(r.NAIVE),
        ),
        compare(
            *("p50 of one caller: naive service / explained", r.SPARE, 14.0, r.p50, operator.truediv),
            left=calls(r.NAIVE, r.SPARE, 1),
            right=calls(r.EXPLAINED, r.SPARE, 1),
        ),
    ]
    for who in (r.EXPLAINED, r.RECORDED):
        bars += _under_load(results, compare, who)
    for who in (r.EXPLAINED, r.RECORDED):
        bars += _memory(results, who)
    return [*bars, *_soak(results)]


def failing(bars: list[Bar]) -> list[Bar]:
    """Returns the bars that do not hold, those that could not be measured included."""
    return [bar for bar in bars if bar.holds is not True]


def _rate(load: Load) -> float:
    return load.rate


class _Judge:
    """Compares two contestants that took turns."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def __call__(
        self,
        what: str,
        where: str,
        due: float,
        figure: Callable[[Load], float],
        combine: Callable[[float, float], float],
        unit: str = "×",
        *,
        left: Key,
        right: Key,
        at_most: bool = False,
        note: str = "",
    ) -> Bar:
        target = f"{'≤' if at_most else '≥'} {due:g}{unit}"
        for key in (left, right):
            if key not in self._results.loads:
                return Bar(what, where, target, None, None, self._results.why_not(key.case, key.contestant), unit)
        loads = self._results.loads
        value = r.by_round(loads[left], loads[right], figure, combine)
        if value is None:
            return Bar(what, where, target, None, None, "a turn was too short for one answer", unit)
        flaw = flaw_of(self._results, left) or flaw_of(self._results, right)
        holds = (value.value <= due if at_most else value.value >= due) and not flaw
        return Bar(what, where, target, value, holds, flaw or note, unit)


def flaw_of(results: Results, key: Key) -> str:
    """Returns why what was measured proves nothing, or an empty text."""
    loads = results.loads[key]
    due = sum(load.due for load in loads)
    who = key.contestant
    not_sent = sum(load.not_sent for load in loads)
    if not_sent:
        return f"the generator left out {not_sent} calls"
    wrong = sum(load.wrong for load in loads)
    if wrong > MOST_WRONG * due:
        return f"{who}: {wrong} of {due} calls went wrong: {next(load.why_wrong() for load in loads if load.wrong)}"
    in_time = sum(load.answered_in_time for load in loads)
    if 0 < key.share < 1 and key.company != r.WITH_BATCH and in_time < KEPT_UP * due:
        return f"{who}: fell behind at {key.share:.0%}: {in_time} of {due} calls were answered meanwhile"
    if key.case in (r.CALLERS, r.BATCH) and who in (r.EXPLAINED, r.RECORDED, r.NAIVE):
        lacking = sum(load.answered - load.explained for load in loads)
        if lacking > MOST_WRONG * due:
            return f"{who}: {lacking} of {due} replies were not explained"
    if not results.agreement.get(who, 0.0) <= AGREEMENT:
        return f"{who}: attributions differ by {results.agreement[who]:.2g} of the largest"
    return ""


def _under_load(results: Results, compare: _Judge, who: str) -> list[Bar]:
    def one(what: str, key: Key, target: str, figure: Callable[[Load], float], *, least: float | None = None,
            most: float | None = None, scale: float = 1.0, unit: str = "×") -> Bar:  # fmt: skip
        loads = results.loads.get(key)
        if not loads:
            return Bar(what, who, target, None, None, results.why_not(key.case, who), unit)
        value = r.spread([figure(load) * scale for load in loads])
        if value is None:
            return Bar(what, who, target, None, None, "a turn was too short for one answer", unit)
        flaw = "" if key.case == r.DEADLINE else flaw_of(results, key)
        holds = (least is None or value.value >= least) and (most is None or value.value <= most) and not flaw
        return Bar(what, who, target, value, holds, flaw, unit)

    share = f"{NORMAL:.0%} of saturation"
    bars = [
        one(
            f"p99 / p50 at {share}",
            Key(r.LOAD, r.SPARE, who, share=NORMAL),
            "≤ 4×",
            lambda load: r.p99(load) / r.p50(load),
            most=4.0,
        ),
        one(
            f"deadlines missed at {OVERLOAD:.0%} of saturation, 20 ms, among admitted",
            Key(r.DEADLINE, r.SPARE, who, share=OVERLOAD),
            "≤ 0.1 %",
            r.missed_share,
            most=0.1,
            scale=100.0,
            unit=" %",
        ),
        one(
            f"explained within 10 ms at {share}",
            Key(r.BUDGET, r.SPARE, who, share=NORMAL),
            "≥ 99.9 %",
            r.explained_share,
            least=99.9,
            scale=100.0,
            unit=" %",
        ),
    ]
    for where in (r.SPARE, r.ONE):
        bar = compare(
            *("p99 of single rows beside batches of 10,000 / without", where, 3.0, r.p99, operator.truediv),
            left=Key(r.BESIDE, where, who, share=BESIDE_SHARE, company=r.WITH_BATCH),
            right=Key(r.BESIDE, where, who, share=BESIDE_SHARE, company=r.ALONE),
            at_most=True,
        )
        bars.append(Bar(bar.what, f"{who}, {where}", bar.target, bar.value, bar.holds, bar.note, bar.unit))
    return bars


def _memory(results: Results, who: str) -> list[Bar]:
    found = results.memory.get(who)
    idle, growth = "resident memory, idle, one model", "growth of resident memory after 1 million decisions"
    if not found or len(found["mb"]) < 2:
        why = results.why_not("memory", who)
        return [
            Bar(idle, who, f"≤ {IDLE_MB:g} MB", None, None, why, " MB"),
            Bar(growth, who, f"≤ {100 * GROWTH:g} %", None, None, why, " %"),
        ]
    at, grown = found["idle_mb"], 100.0 * (found["mb"][-1] / found["idle_mb"] - 1.0)
    warm = 100.0 * (found["mb"][-1] / found["mb"][1] - 1.0)
    decisions = found["decisions"][-1]
    note = f"after {decisions:,}; {warm:+.1f} % since the first {found['decisions'][1]:,}"
    enough = decisions >= _MILLION
    holds = (grown <= 100.0 * GROWTH) if enough or grown > 100.0 * GROWTH else None
    return [
        Bar(idle, who, f"≤ {IDLE_MB:g} MB", Ratio(at, at, at), at <= IDLE_MB, "", " MB"),
        Bar(growth, who, f"≤ {100 * GROWTH:g} %", Ratio(grown, grown, grown), holds, note, " %"),
    ]


def _soak(results: Results) -> list[Bar]:
    """Of the long run, when there was one: nothing failed, and memory is where it was."""
    soak = results.soak
    if not soak:
        return []
    failed, growth = float(soak["failed"]), 100.0 * soak["growth"]
    run = f"soak of {soak['seconds']:.0f} s at {NORMAL:.0%}, {soak['reloads']} reloads"
    what = f"{run}: failed of {soak['due']:,} requests"
    none_failed = failed == 0 and soak["reloads"] > 0
    flat = growth <= 100.0 * GROWTH
    target, note = f"≤ {100 * GROWTH:g} %", "with one version served, last tenth against the second"
    return [
        Bar(what, r.RECORDED, "0", Ratio(failed, failed, failed), none_failed, soak["why"], ""),
        Bar(f"{run}: memory grew", r.RECORDED, target, Ratio(growth, growth, growth), flat, note, " %"),
    ]
