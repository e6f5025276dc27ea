"""A dot plot of the ratios, as SVG without any library: right is good on the left panel, left on the right one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.bars import BATCH, PATH, Results
from bench.contest import FLOOR, OURS
from bench.measure import best, ratio
from bench.models import MODELS

_LABELS, _PANEL, _GAP, _LINE, _TOP, _BOTTOM = 190, 330, 40, 30, 62, 34
_FONT = 'font-family="sans-serif" font-size="13"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One axis: its title, decades shown, and for each line the dots: (ratio, class)."""

    title: str
    decades: tuple[int, int]
    dots: Sequence[Sequence[tuple[float, str]]]


def draw(results: Results) -> str:
    """Returns the SVG: each model's speed-up over its best rival, and its time against ONNX Runtime's prediction."""
    names = [name for name in MODELS if (name, PATH, 1) in results.series]
    faster, floor = [], []
    for name in names:
        one, many = (results.series.get((name, PATH, rows), {}) for rows in (1, BATCH))
        dots = []
        for series, kind in ((one, "one"), (many, "many")):
            rival = best(series, results.counted(name, PATH))
            if rival and OURS in series:
                dots.append((ratio(series[rival], series[OURS]).value, kind))
        faster.append(dots)
        pairs = ((one, "one"), (many, "many"))
        floor.append([(ratio(s[OURS], s[FLOOR]).value, kind) for s, kind in pairs if OURS in s and FLOOR in s])
    panels = (
        Panel("times faster than the best rival", _decades(faster), faster),
        Panel("time, in ONNX Runtime predictions", _decades(floor), floor),
    )
    return _svg([MODELS[name].title for name in names], panels)


def _decades(dots: Sequence[Sequence[tuple[float, str]]]) -> tuple[int, int]:
    values = [value for line in dots for value, _ in line] or [1.0]
    return min(0, math.floor(math.log10(min(values)))), max(1, math.ceil(math.log10(max(values))))


def _svg(titles: Sequence[str], panels: Sequence[Panel]) -> str:
    width = _LABELS + len(panels) * (_PANEL + _GAP)
    height = _TOP + _LINE * len(titles) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_FONT} fill="#222">',
        "<title>Exact attributions: speed against the best rival and against the prediction</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<circle cx="{_LABELS}" cy="16" r="5" fill="#0b6e99"/><text x="{_LABELS + 12}" y="20">one row</text>',
        f'<circle cx="{_LABELS + 90}" cy="16" r="5" fill="#d9730d"/>',
        f'<text x="{_LABELS + 102}" y="20">batch of {BATCH:,}</text>',
    ]
    parts += [
        f'<text x="{_LABELS - 14}" y="{_TOP + _LINE * (i + 0.5) + 4:g}" text-anchor="end">{escape(title)}</text>'
        for i, title in enumerate(titles)
    ]
    for k, panel in enumerate(panels):
        parts += _panel(panel, _LABELS + k * (_PANEL + _GAP), len(titles))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, lines: int) -> list[str]:
    low, high = panel.decades
    bottom = _TOP + _LINE * lines

    def x(value: float) -> float:
        return left + _PANEL * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="{left}" y="{_TOP - 16}" font-weight="bold">{escape(panel.title)}</text>']
    for decade in range(low, high + 1):
        at, tone = x(10.0**decade), "#666" if decade == 0 else "#ddd"
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}" stroke="{tone}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**decade:g}×</text>')
    for i, dots in enumerate(panel.dots):
        for value, kind in dots:
            colour = "#0b6e99" if kind == "one" else "#d9730d"
            at, y = x(value), _TOP + _LINE * (i + 0.5)
            parts.append(f'<circle cx="{at:.1f}" cy="{y:g}" r="5" fill="{colour}"><title>{value:.3g}×</title></circle>')
    return parts
