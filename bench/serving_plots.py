"""Plots as SVG without any library. Narrow, so that their text can be read on a phone; text takes the page's colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 40
_BAR, _BAR_GAP, _GROUP_HEAD = 15, 4, 20
COLOURS = ("#2b83ba", "#d9730d", "#4d9221", "#b2448c", "#8c6d31", "#666699")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name and its points (x, y); what has no y is left out."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it says, how it writes a number, and whether it is logarithmic."""

    title: str
    write: Callable[[float], str] = "{:g}".format
    log: bool = False
    zero: bool = True


def lines(title: str, x: Axis, y: Axis, drawn: Sequence[Line], mark: float | None = None) -> str:
    """Returns a line plot; ``mark`` draws a vertical line at that x."""
    seen = [(line.name, [(a, b) for a, b in line.points if b is not None and (b > 0 or not y.log)]) for line in drawn]
    shown = [(name, points) for name, points in seen if points]
    if not shown:
        return ""
    at_x, x_ticks = _scale(x, [a for _, points in shown for a, _ in points], _LEFT, _WIDTH - _RIGHT)
    legend = _legend([name for name, _ in shown])
    top = _TOP + legend.height
    at_y, y_ticks = _scale(y, [b for _, points in shown for _, b in points], _HEIGHT - _BOTTOM, top)
    parts = legend.parts
    for tick in y_ticks:
        parts.append(_rule(_LEFT, at_y(tick), _WIDTH - _RIGHT, at_y(tick)))
        parts.append(_text(_LEFT - 6, at_y(tick) + 4, y.write(tick), anchor="end"))
    for tick in x_ticks:
        parts.append(_rule(at_x(tick), top, at_x(tick), _HEIGHT - _BOTTOM))
        parts.append(_text(at_x(tick), _HEIGHT - _BOTTOM + 15, x.write(tick), anchor="middle"))
    if mark is not None:
        parts.append(
            f'<line x1="{at_x(mark):.1f}" x2="{at_x(mark):.1f}" y1="{top}" y2="{_HEIGHT - _BOTTOM}" class="mark"/>'
        )
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x.title, anchor="middle"))
    for (name, points), colour in zip(shown, COLOURS, strict=False):
        path = " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) <= 20:
            parts += [
                f'<circle cx="{at_x(a):.1f}" cy="{at_y(b):.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(f'{name}, {x.write(a)}: {y.write(b)}')}</title></circle>"
                for a, b in points
            ]
    return _svg(f"{title}: {y.title}", _HEIGHT, parts)


def bars(
    title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float | None]]]], write: Callable[[float], str]
) -> str:
    """Returns horizontal bars in groups: (group's name, [(bar's name, value)]). What has no value is left out."""
    seen = [(name, [(label, v) for label, v in values if v is not None]) for name, values in groups]
    shown = [(name, values) for name, values in seen if values]
    if not shown:
        return ""
    most = max(v for _, values in shown for _, v in values) or 1.0
    labels = list(dict.fromkeys(label for _, values in shown for label, _ in values))
    left, right = 10.0, 64.0
    legend = _legend(labels)
    y = float(_TOP + legend.height)
    parts = legend.parts
    for name, values in shown:
        parts.append(_text(left, y + 13, name, bold=True))
        y += _GROUP_HEAD
        for label, value in values:
            width = max(1.0, (_WIDTH - left - right) * value / most)
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            parts.append(
                f'<rect x="{left}" y="{y:.1f}" width="{width:.1f}" height="{_BAR}" fill="{colour}">'
                f"<title>{escape(f'{name}, {label}: {write(value)}')}</title></rect>"
            )
            parts.append(_text(left + width + 6, y + 12, write(value)))
            y += _BAR + _BAR_GAP
        y += 6
    return _svg(title, math.ceil(y + 4), parts)


@dataclass(slots=True)
class _Legend:
    parts: list[str]
    height: int


def _legend(names: Sequence[str]) -> _Legend:
    """A line of names, or more than one where they do not fit."""
    parts: list[str] = []
    x, y = 10.0, _TOP
    for name, colour in zip(names, COLOURS, strict=False):
        width = 24 + 7.2 * len(name)
        if x + width > _WIDTH and x > 10:
            x, y = 10.0, y + 18
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(x + 16, y + 10, name))
        x += width + 6
    return _Legend(parts, y + 18 - _TOP + 8)


def _scale(
    axis: Axis, values: Sequence[float], begin: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Returns where a value stands between ``begin`` and ``end``, and the values to mark."""
    low, high = min(values), max(values)
    if axis.log:
        steps = [
            m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        low = max((s for s in steps if s <= low), default=low)
        high = min((s for s in steps if s >= high), default=high)
        if low == high:
            high = low * 2
        span = math.log(high / low)
        ticks = [s for s in steps if low <= s <= high]
        if len(ticks) > 7:
            ticks = [s for s in ticks if math.log10(s) % 1 < 1e-9] or ticks
        return (lambda v: begin + (end - begin) * math.log(v / low) / span), ticks
    if axis.zero:
        low = min(0.0, low)
    if low == high:
        high = low + 1.0
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6)
    high = math.ceil(high / step - 1e-9) * step if axis.zero else high
    first = math.ceil(low / step - 1e-9)
    ticks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return (lambda v: begin + (end - begin) * (v - low) / (high - low)), ticks


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="rule"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
    return "\n".join([opening, f"<title>{escape(title)}</title>", *parts, "</svg>"])
