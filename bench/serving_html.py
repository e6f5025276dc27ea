"""One run of the serving benchmark as a page of its own: tables and plots, nothing to load, no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from bench import serving_plots as plots
from bench import serving_report as report
from bench import serving_results as r
from bench.serving_plots import Axis, Line
from bench.serving_report import Document, find

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #667; --edge: #d8dbe0; --good: #1a7f37;
  --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16191d; --soft: #9aa3ad; --edge: #333a42;
  --good: #4ac26b; --bad: #ff7b72; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 66rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .875rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .25rem; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .rule { stroke: var(--edge); } svg .mark { stroke: var(--soft); stroke-dasharray: 4 3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--edge); vertical-align: top; }
.scroll td, .scroll th { white-space: nowrap; }
.holds { color: var(--good); font-weight: 600; } .short { color: var(--bad); font-weight: 600; }
td.holds, td.short, td[data-name="target"] { white-space: nowrap; }
@media (max-width: 44rem) {
  .bars thead { display: none; } .bars tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--edge); }
  .bars td { display: block; border: 0; padding: .05rem 0; } .bars td:empty { display: none; }
  .bars td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); }
}
"""
_BAR_HEADING = ("", "bar", "of", "target", "measured", "note")


def page(document: Document) -> str:
    """Returns the page."""
    machine, settings = document["machine"], document["settings"]
    model = document["models"].get("title", "")
    hardware = f"{machine['cpu']}, {machine['cores']} CPUs{', virtual' if machine['hypervisor'] else ''}"
    commit = (machine["commit"] or "unknown")[:12] + (", with changes" if machine["dirty"] else "")
    cpus = f"server on CPU {settings['server_core']}, load generator on CPU {settings['load_core']}"
    about = (
        f"{hardware}; Python {machine['python']}; {machine['date'][:16].replace('T', ' ')} UTC; commit {commit}",
        f"{model}; {cpus}; {settings['transport']}; {settings['seconds']:,.0f} s in all",
    )
    spread = "A value is the median of the rounds, with the least and the greatest round."
    parts = [
        "<h1>Explained within budget: the service under load</h1>",
        *(f'<p class="soft">{escape(text)}</p>' for text in about),
        *(f"<p><strong>{escape(text)}</strong></p>" for text in report.warnings(document)),
        f"<h2>Bars</h2><p>{escape(report.verdict(document))} {spread}</p>",
        _bars(report.asked(document)),
        *_section("Single rows", _throughput(document), report.closed_loops(document)),
        *_section("Latency against offered load", _load(document), report.open_loops(document)),
        *_section("A batch of 10,000 rows beside single rows", _beside(document)),
        *_section("Memory", _memory(document)),
        *_section("Soak", _soak(document)),
        "<h2>Who takes part</h2>",
        *(f"<p><strong>{escape(name)}</strong>: {escape(text)}</p>" for name, text in document["contestants"].items()),
    ]
    if document["skipped"]:
        items = "".join(f"<li>{escape(report.left_out(skipped))}</li>" for skipped in document["skipped"])
        parts.append(f"<h2>Left out</h2><ul>{items}</ul>")
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts.append(f'<p class="soft">{escape(packages)}</p>')
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>xai-service: serving benchmark</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _bars(bars: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in _BAR_HEADING)
    lines = []
    for bar in bars:
        state, what, of, target, measured, note = report.bar_cells(bar)
        state = "not measured" if bar["holds"] is None else state
        kind = {True: "holds", False: "short", None: "soft"}[bar["holds"]]
        lines.append(
            f'<tr><td class="{kind}">{escape(state)}</td><td>{escape(what)}</td><td>{escape(of)}</td>'
            f'<td data-name="target">{escape(target)}</td><td data-name="measured">{escape(measured)}</td>'
            f'<td class="soft">{escape(note)}</td></tr>'
        )
    return f'<table class="bars"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _section(title: str, figures: Iterable[tuple[str, str]], grid: list[list[str]] | None = None) -> list[str]:
    drawn = [f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>" for caption, svg in figures if svg]
    if not drawn:
        return []
    parts = [f"<h2>{escape(title)}</h2>", f'<div class="plots">{"".join(drawn)}</div>']
    if grid is not None and len(grid) > 1:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in grid[0])
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in grid[1:])
        parts.append(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    return parts


def _throughput(document: Document) -> Iterable[tuple[str, str]]:
    for where in (r.SPARE, r.ONE):
        measured = find(document, case=r.CALLERS, placement=where)
        for caption, name, write, scale in (
            (f"Calls a second, {where}", "rate_per_s", "{:,.0f}".format, 1.0),
            (f"Median latency, ms, {where}", "p50_us", report.number, 1e-3),
        ):
            groups = [
                (
                    who,
                    [
                        (f"{m['callers']} caller{'s' if m['callers'] > 1 else ''}", m[name] and m[name] * scale)
                        for m in sorted(find(document, case=r.CALLERS, placement=where, contestant=who), key=_callers)
                    ],
                )
                for who in dict.fromkeys(m["contestant"] for m in measured)
                if name == "rate_per_s" or who != r.NAIVE  # its latency would leave no room for the others'
            ]
            yield caption, plots.bars(caption, groups, write)


def _callers(m: dict[str, Any]) -> int:
    return int(m["callers"])


def _load(document: Document) -> Iterable[tuple[str, str]]:
    share = Axis("offered, of saturation", "{:.0%}".format, zero=False)
    for who in (r.EXPLAINED, r.RECORDED):
        points = sorted(find(document, case=r.LOAD, contestant=who), key=lambda m: m["share"])
        if not points:
            continue

        def line(name: str, field: str, scale: float, points: Any = points) -> Line:
            return Line(name, [(m["share"], None if m[field] is None else m[field] * scale) for m in points])

        names = (("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p999_us"))
        quantiles = [line(name, field, 1e-3) for name, field in names]
        caption = f"Latency of what is answered, ms: {who}"
        yield caption, plots.lines(caption, share, Axis("ms", report.number, log=True), quantiles, mark=1.0)
        shares = [line("explained", "explained_share", 100.0), line("shed", "shed_share", 100.0)]
        caption = f"Share of calls, %: {who}"
        yield caption, plots.lines(caption, share, Axis("%"), shares, mark=1.0)


def _beside(document: Document) -> Iterable[tuple[str, str]]:
    measured = find(document, case=r.BESIDE)
    groups = [
        (f"{who}, {where}", [(m["company"], m["p99_us"] and m["p99_us"] / 1e3) for m in measured
                             if (m["contestant"], m["placement"]) == (who, where)])
        for who, where in dict.fromkeys((m["contestant"], m["placement"]) for m in measured)
    ]  # fmt: skip
    caption = "p99 of single rows, ms"
    yield caption, plots.bars(caption, groups, report.number)


def _memory(document: Document) -> Iterable[tuple[str, str]]:
    drawn = [
        Line(who, [(n / 1e3, mb) for n, mb in zip(found["decisions"], found["mb"], strict=True)])
        for who, found in document["memory"].items()
    ]
    caption = "Resident memory, MB"
    yield caption, plots.lines(caption, Axis("thousand decisions", "{:,g}".format), Axis("MB"), drawn)


def _soak(document: Document) -> Iterable[tuple[str, str]]:
    soak = document["soak"]
    if not soak:
        return
    seconds = Axis("seconds", "{:,g}".format)
    line = Line(r.RECORDED, list(zip(soak["memory_s"], soak["memory_mb"], strict=True)))
    yield "Resident memory, MB", plots.lines("Resident memory, MB", seconds, Axis("MB"), [line])
    each = list(enumerate(soak["each_second"]))
    answered = [Line("answered", [(i, s[0]) for i, s in each]), Line("failed", [(i, s[1]) for i, s in each])]
    yield "Calls a second", plots.lines("Calls a second", seconds, Axis("calls"), answered)
    worst = [Line("longest of each second", [(i, s[2] / 1e3) for i, s in each])]
    yield "Latency, ms", plots.lines("Latency, ms", seconds, Axis("ms", report.number), worst)
