"""The bars that the kernel is held to, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.contest import FLOOR, ONE_WORKER, OURS, TWO_WORKERS
from bench.measure import Ratio, Series, best, ratio
from bench.models import MODELS, STUMP

BATCH = 1_000
BACKGROUND = 100
PATH, INTERVENTIONAL, COMPILE = "path-dependent", "interventional", "compile"
FAST, REFERENCE = "avx512", "avx2"
NOT_BUILT = "not built yet"

Key = tuple[str, str, int]  # model, mode, rows of a call (as asked for; 0 for loading)


@dataclass(slots=True)
class Results:
    """What one run measured.

    Attributes:
        series: times by key and contestant.
        skipped: reasons by (model, mode, contestant).
        rivals: contestants that count as rivals.
        wrong: (model, mode, contestant) whose attributions differ from ours: not counted as rivals.
        unproven: (model, mode) in which ours agree with no reference: none of their bars hold.
        isas: instruction sets that were forced.
    """

    rivals: tuple[str, ...] = ()
    isas: tuple[str, ...] = ()
    series: dict[Key, dict[str, Series]] = field(default_factory=dict)
    skipped: dict[tuple[str, str, str], str] = field(default_factory=dict)
    wrong: set[tuple[str, str, str]] = field(default_factory=set)
    unproven: set[tuple[str, str]] = field(default_factory=set)

    def counted(self, model: str, mode: str) -> list[str]:
        """Rivals whose attributions were found right."""
        return [name for name in self.rivals if (model, mode, name) not in self.wrong]

    def why_not(self, model: str, mode: str, contestant: str) -> str:
        """Returns why this contestant has no times."""
        return self.skipped.get((model, mode, contestant), "not measured in this run")


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise and what became of it.

    Attributes:
        what: the comparison.
        model: title of the model.
        target: such as "≥ 55×".
        value: measured, or ``None``.
        holds: ``None`` when it could not be measured.
        note: the rival, or why there is no value.
    """

    what: str
    model: str
    target: str
    value: Ratio | None
    holds: bool | None
    note: str
    unit: str = "×"


def judge(results: Results) -> list[Bar]:
    """Returns all bars, those that could not be measured included."""
    bars = []
    for name in MODELS:
        factor = {"xgb-500x6": 55.0, "xgb-100x6": 40.0}.get(name, 30.0)
        bars.append(_faster(results, name, PATH, 1, "one row, against the best rival", factor))
    bars += [
        _faster(results, name, PATH, BATCH, f"batch of {BATCH:,}, against the best rival", 60.0) for name in MODELS
    ]
    for name, most in (("xgb-100x6", 0.95), ("xgb-500x6", 0.95), ("xgb-1000x8", 2.5), ("lgb-500x31", 2.5)):
        what = "one row, time against ONNX Runtime's prediction"
        bars.append(_compare(results, (name, PATH, 1), OURS, FLOOR, what, most, at_most=True))
    for rows, factor in ((1, 200.0), (BATCH, 800.0)):
        what = f"interventional, {BACKGROUND} background rows, {'one row' if rows == 1 else f'batch of {BATCH:,}'}"
        bars.append(_faster(results, "xgb-500x6", INTERVENTIONAL, rows, f"{what}, against shap", factor, only="shap"))
    for mode, most in ((PATH, 50.0), (INTERVENTIONAL, 300.0)):
        bars.append(_absolute(results, ("xgb-500x6", f"{COMPILE} {mode}", 0), f"load, {mode}", most, 1e3, " ms"))
    pooled = ("xgb-500x6", "workers", BATCH)
    bars.append(_compare(results, pooled, ONE_WORKER, TWO_WORKERS, f"two workers against one, batch of {BATCH:,}", 1.8))
    for rows, share in ((1, 0.65), (BATCH, 0.55)):
        what = f"AVX2's speed against AVX-512's, {'one row' if rows == 1 else f'batch of {BATCH:,}'}"
        fast, slow = f"{OURS}, {FAST}", f"{OURS}, {REFERENCE}"
        bars += [_compare(results, (name, PATH, rows), fast, slow, what, share) for name in MODELS]
    bars.append(_absolute(results, (STUMP, PATH, 1), "the call itself, one row of one split", 3.0, 1.0, " µs"))
    return bars


def _title(model: str) -> str:
    return MODELS[model].title if model in MODELS else model


def _faster(
    results: Results, model: str, mode: str, rows: int, what: str, factor: float, only: str | None = None
) -> Bar:
    series = results.series.get((model, mode, rows), {})
    rivals = [name for name in results.counted(model, mode) if only in (None, name)]
    rival = best(series, rivals)
    if OURS in series and rival is None:
        why = results.why_not(model, mode, only) if only else "no rival was measured"
        return Bar(what, _title(model), f"≥ {factor:g}×", None, None, why)
    return _compare(results, (model, mode, rows), rival or "", OURS, what, factor)


def _compare(
    results: Results, key: Key, numerator: str, denominator: str, what: str, due: float, *, at_most: bool = False
) -> Bar:
    model, mode, _ = key
    target = f"{'≤' if at_most else '≥'} {due:g}×"
    series = results.series.get(key, {})
    missing = [name for name in (denominator, numerator) if name not in series]
    if missing:
        ours_first = OURS if OURS not in series and not denominator.startswith(OURS) else missing[0]
        return Bar(what, _title(model), target, None, None, results.why_not(model, mode, ours_first))
    value = ratio(series[numerator], series[denominator])
    rival = next((name for name in (numerator, denominator) if not name.startswith(OURS)), "")
    if (model, mode) in results.unproven:
        return Bar(what, _title(model), target, value, False, "no reference agrees with our attributions")
    holds = value.value <= due if at_most else value.value >= due
    return Bar(what, _title(model), target, value, holds, rival)


def _absolute(results: Results, key: Key, what: str, most: float, scale: float, unit: str) -> Bar:
    series = results.series.get(key, {}).get(OURS)
    target = f"≤ {most:g}{unit}"
    if series is None:
        return Bar(what, _title(key[0]), target, None, None, results.why_not(key[0], key[1], OURS), unit)
    value = Ratio(series.median / scale, series.quantile(0.1) / scale, series.quantile(0.9) / scale)
    return Bar(what, _title(key[0]), target, value, value.value <= most, "", unit)


def failing(bars: Sequence[Bar]) -> list[Bar]:
    """Returns the bars that do not hold, those that could not be measured included: nothing is proven by absence."""
    return [bar for bar in bars if bar.holds is not True]


def counts(bars: Sequence[Bar]) -> Mapping[str, int]:
    """Returns how many hold, fall short and were not measured."""
    names = {True: "hold", False: "fall short", None: "not measured"}
    return {name: sum(bar.holds is state for bar in bars) for state, name in names.items()}
