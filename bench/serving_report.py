"""One run as JSON, and its tables as text or Markdown, made from that JSON: a kept file can be shown again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from bench import serving_results as r
from bench.bars import Bar
from bench.serving_results import Key, Results
from bench.tables import grid as tabulate

SCHEMA = 1
KIND = "serving"
QUANTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}
BUSY_GENERATOR = 0.9
_GRIDS = (r.CALLERS, r.BATCH)

Document = dict[str, Any]


def as_json(
    results: Results,
    bars: Sequence[Bar],
    *,
    machine: dict[str, Any],
    settings: dict[str, Any],
    models: dict[str, Any],
    contestants: dict[str, Any],
) -> Document:
    """Returns one run. Latencies are microseconds from when a call was due; rates are calls a second."""
    document = {
        "schema": SCHEMA,
        "kind": KIND,
        "machine": machine,
        "settings": settings,
        "models": models,
        "contestants": contestants,
        "agreement": results.agreement,
        "measurements": [_measurement(results, key) for key in results.loads],
        "memory": results.memory,
        "soak": results.soak,
        "skipped": [
            {"case": case, "contestant": who, "reason": reason} for (case, who), reason in results.skipped.items()
        ],
        "bars": [asdict(bar) for bar in bars],
    }
    cleaned = _without_nan(document)
    assert isinstance(cleaned, dict)  # noqa: S101 (for the type checker)
    return cleaned


def _measurement(results: Results, key: Key) -> dict[str, Any]:
    loads = results.loads[key]
    all_ok = r.merged(loads)
    statuses: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for load in loads:
        for status, n in load.statuses.items():
            statuses[status] = statuses.get(status, 0) + n
        reasons = {**load.reasons, **reasons}
    rates = r.spread([load.rate for load in loads])
    due = sum(load.due for load in loads)
    return {
        **asdict(key),
        "rounds": len(loads),
        "n": all_ok.count,
        "due": due,
        "rate_per_s": None if rates is None else rates.value,
        "offered_per_s": r.spread(results.offered[key]).value if key in results.offered else None,  # type: ignore[union-attr]
        **{name: all_ok.quantile(q) for name, q in QUANTILES.items()},
        "max_us": all_ok.max,
        "statuses": statuses,
        "reasons": reasons,
        "shed_share": _share(sum(load.shed for load in loads), due),
        "explained_share": _share(sum(load.explained for load in loads), due),
        "explained_within_budget_share": _share(sum(load.explained_within_budget for load in loads), due),
        "within_budget_share": _share(sum(load.within_budget for load in loads), due),
        "missed_share": r.spread([r.missed_share(load) for load in loads]),
        "not_sent": sum(load.not_sent for load in loads),
        "unanswered": sum(load.unanswered for load in loads),
        "generator_cpu": max(load.generator_cpu for load in loads),
        "lag_p99_us": max(load.lag.quantile(0.99) for load in loads),
        "round_rates_per_s": [load.rate for load in loads],
        "round_p50_us": [r.p50(load) for load in loads],
        "round_p99_us": [r.p99(load) for load in loads],
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def find(document: Document, **wanted: Any) -> list[dict[str, Any]]:
    """Returns the measurements with these fields, in the order measured."""
    return [m for m in document["measurements"] if all(m[name] == value for name, value in wanted.items())]


def table(document: Document, *, markdown: bool) -> str:
    """Returns the tables: rates and latencies, load, bars, and who was left out and why."""
    parts = [
        tabulate(grid[0], grid[1:], markdown=markdown)
        for grid in (closed_loops(document), open_loops(document), *_memory(document))
        if len(grid) > 1
    ]
    heading = ["", "bar", "of", "target", "measured", "note"]
    parts.append(tabulate(heading, [bar_cells(bar) for bar in asked(document)], markdown=markdown))
    parts.append(verdict(document))
    parts += warnings(document)
    lines = [f"- {left_out(skipped)}" for skipped in document["skipped"]]
    if lines:
        parts.append("\n".join(["Left out:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def asked(document: Document) -> list[dict[str, Any]]:
    """Returns the bars of the parts that this run had."""
    return [bar for bar in document["bars"] if bar["note"] != r.NOT_ASKED]


def left_out(skipped: dict[str, Any]) -> str:
    """Returns who was left out of what, and why."""
    return f"{', '.join(filter(None, (skipped['contestant'], skipped['case'])))}: {skipped['reason']}"


def verdict(document: Document) -> str:
    """Returns how many bars hold."""
    names = {True: "hold", False: "fall short", None: "not measured"}
    states = [bar["holds"] for bar in document["bars"]]
    return ", ".join(f"{sum(s is state for s in states)} {name}" for state, name in names.items()) + "."


def warnings(document: Document) -> list[str]:
    """Returns what speaks against trusting this run."""
    found = []
    busy = max((m["generator_cpu"] for m in document["measurements"]), default=0.0)
    if busy > BUSY_GENERATOR:
        found.append(f"The load generator took {busy:.0%} of its core in a turn: it may have been the limit there.")
    before = document["machine"]["load_average"][0]
    if before > 0.5:
        found.append(f"The machine was busy when the run began (load average {before:.1f}): trust ratios only.")
    return found


def closed_loops(document: Document) -> list[list[str]]:
    """A line for each contestant and placement, a column for each number of callers."""
    measured = [m for m in document["measurements"] if m["case"] in _GRIDS]
    columns = sorted({(m["rows"], m["callers"]) for m in measured})
    titles = [f"{n} caller{'s' if n > 1 else ''}" + (f", {rows} rows" if rows > 1 else "") for rows, n in columns]
    lines = [["calls/s (p50 / p99 ms)", "", *titles]]
    for where, who in dict.fromkeys((m["placement"], m["contestant"]) for m in measured):
        cells = []
        for rows, n in columns:
            found = find(document, placement=where, contestant=who, rows=rows, callers=n, share=0.0)
            cells.append(_cell(found[0]) if found else "-")
        lines.append([who, where, *cells])
    return lines


def _cell(m: dict[str, Any]) -> str:
    return f"{number(m['rate_per_s'])} ({_ms(m['p50_us'])} / {_ms(m['p99_us'])})"


def _ms(us: float | None) -> str:
    return "-" if us is None else number(us / 1e3)


def open_loops(document: Document) -> list[list[str]]:
    """A line for each contestant and offered load."""
    heading = ["offered", "", "calls/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "explained", "shed", "missed 20 ms"]
    lines = [heading]
    for m in document["measurements"]:
        if m["case"] != r.LOAD:
            continue
        shares = [percent(m[name]) for name in ("explained_share", "shed_share")]
        missed = percent(m["missed_share"] and m["missed_share"]["value"])
        quantiles = [_ms(m[name]) for name in QUANTILES]
        lines.append([f"{m['share']:.0%}", m["contestant"], number(m["rate_per_s"]), *quantiles, *shares, missed])
    return [heading, *sorted(lines[1:], key=lambda line: (line[1], float(line[0][:-1])))]


def _memory(document: Document) -> Iterable[list[list[str]]]:
    for who, found in document["memory"].items():
        yield [
            [f"resident memory, {who}", "MB"],
            *([f"after {n:,}", number(mb)] for n, mb in zip(found["decisions"], found["mb"], strict=True)),
        ]


def bar_cells(bar: dict[str, Any]) -> list[str]:
    """Returns a bar's line: state, what, of what, target, measured with its spread, note."""
    state = {True: "holds", False: "FALLS SHORT", None: "-"}[bar["holds"]]
    value = bar["value"]
    measured = "-"
    if value is not None:
        measured = f"{number(value['value'])}{bar['unit']}"
        if value["low"] != value["high"]:
            measured += f" ({number(value['low'])} to {number(value['high'])})"
    return [state, bar["what"], bar["model"], bar["target"], measured, bar["note"]]


def percent(share: float | None) -> str:
    """Returns a share with as many digits as it takes to tell it from 0 and from 1."""
    if share is None:
        return "-"
    return f"{100 * share:.3f} %" if 0 < min(share, 1 - share) < 0.01 else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Returns a number with three digits that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
