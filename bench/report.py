"""Tables of what was measured and of the bars, as text or as Markdown, and everything as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.bars import BATCH, INTERVENTIONAL, NOT_BUILT, PATH, Bar, Results, counts
from bench.contest import FLOOR, OURS
from bench.measure import Series, best, ratio
from bench.models import MODELS

SCHEMA = 1
BUSY = 0.9


def as_json(
    results: Results,
    bars: Sequence[Bar],
    *,
    machine: dict[str, Any],
    settings: dict[str, Any],
    models: dict[str, Any],
    contestants: dict[str, Any],
    agreement: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns one run. Times are microseconds per row; ``n`` counts calls, ``rows_per_call`` their rows."""
    return {
        "schema": SCHEMA,
        "machine": machine,
        "settings": settings,
        "models": models,
        "contestants": contestants,
        "agreement": agreement,
        "measurements": [
            {
                "model": model,
                "mode": mode,
                "rows": rows,
                "contestant": name,
                "median_us": series.median,
                "p10_us": series.quantile(0.1),
                "p90_us": series.quantile(0.9),
                "n": series.n,
                "rows_per_call": series.rows,
                "on_cpu": series.on_cpu,
                "round_medians_us": series.medians.tolist(),
            }
            for (model, mode, rows), all_series in results.series.items()
            for name, series in all_series.items()
        ],
        "skipped": [
            {"model": model, "mode": mode, "contestant": name, "reason": reason}
            for (model, mode, name), reason in results.skipped.items()
        ],
        "bars": [asdict(bar) for bar in bars],
    }


def table(results: Results, bars: Sequence[Bar], *, markdown: bool) -> str:
    """Returns the tables: times, bars, and who was left out and why."""
    times = _times(results)
    parts = [grid(times[0], times[1:], markdown=markdown)]
    heading = ["", "bar", "model", "target", "measured", "note"]
    parts.append(grid(heading, [_bar(bar) for bar in bars], markdown=markdown))
    parts.append(", ".join(f"{n} {name}" for name, n in counts(bars).items()) + ".")
    busy = min((s.on_cpu for all_series in results.series.values() for s in all_series.values()), default=1.0)
    if busy < BUSY:
        parts.append(f"The machine was busy: a contestant had its core for {busy:.0%} of its turns only. Run again.")
    if any(s.rows != key[2] for key, all_series in results.series.items() for s in all_series.values() if key[2] > 1):
        parts.append("* with fewer rows in a call: a full batch would have taken too long.")
    reasons: dict[tuple[str, str], list[str]] = {}
    for (model, mode, name), reason in results.skipped.items():
        reasons.setdefault((name, reason), []).append(f"{model} {mode}")
    lines = [f"- {name}: {reason} ({', '.join(where)})" for (name, reason), where in reasons.items()]
    if lines:
        parts.append("\n".join(["Left out:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _times(results: Results) -> list[list[str]]:
    """One line for each model and mode, one column for each contestant: one row's µs / the batch's µs per row."""
    columns = [OURS, *(f"{OURS}, {isa}" for isa in results.isas), FLOOR, *results.rivals]
    lines = [["µs per row: one row / batch", *columns, "against the best rival", "against onnxruntime"]]
    for mode in (PATH, INTERVENTIONAL):
        for model in MODELS:
            one, many = (results.series.get((model, mode, rows), {}) for rows in (1, BATCH))
            if not one and not many:
                continue
            title = MODELS[model].title + ("" if mode == PATH else f", {mode}")
            cells = [_cell(one.get(name), many.get(name)) for name in columns]
            if (model, mode, OURS) in results.skipped:
                cells[0] = NOT_BUILT if NOT_BUILT in results.why_not(model, mode, OURS) else "-"
            rivals = results.counted(model, mode)
            lines.append([title, *cells, _speed_up(one, many, rivals), _floor(one)])
    return lines


def _cell(one: Series | None, many: Series | None) -> str:
    return "-" if one is None and many is None else " / ".join((_time(one, 1), _time(many, BATCH)))


def _time(series: Series | None, rows: int) -> str:
    return "-" if series is None else _number(series.median) + ("" if series.rows == rows else "*")


def _speed_up(one: dict[str, Series], many: dict[str, Series], rivals: Sequence[str]) -> str:
    texts = []
    for series in (one, many):
        rival = best(series, rivals)
        known = OURS in series and rival is not None
        texts.append(f"{_number(ratio(series[rival], series[OURS]).value)}×" if known and rival else "-")
    return " / ".join(texts)


def _floor(one: dict[str, Series]) -> str:
    return f"{_number(ratio(one[OURS], one[FLOOR]).value)}×" if OURS in one and FLOOR in one else "-"


def _bar(bar: Bar) -> list[str]:
    state = {True: "holds", False: "FALLS SHORT", None: "-"}[bar.holds]
    if bar.value is None:
        return [state, bar.what, bar.model, bar.target, "-", bar.note]
    spread = f"{_number(bar.value.value)}{bar.unit} ({_number(bar.value.low)} to {_number(bar.value.high)})"
    return [state, bar.what, bar.model, bar.target, spread, bar.note]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def grid(heading: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Returns one table."""
    if markdown:
        cells = [heading, ["---"] * len(heading), *lines]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)
    widths = [max(len(line[i]) for line in [heading, *lines]) for i in range(len(heading))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [heading, *lines]]
    return "\n".join("  ".join(line).rstrip() for line in padded)
