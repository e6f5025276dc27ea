"""A waterfall of one decision's attributions, as SVG: how the features carry the base value to the margin.

Read from the bottom, as shap's waterfall: it starts at the base value, each row's arrow adds one feature's attribution
φ, and the last arrow, the largest, ends at the margin. Direction and sign say what the two colours say.

The SVG stands alone: no styles, scripts or fonts to load, so it passes a strict content security policy inline; it
brings its own background, so it reads the same on light and dark pages; the same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xai_service.console.digits import MINUS, as_written, decimals_for, fixed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Lengths are CSS pixels.
WIDTH = 860
PADDING = 28
LABELS_MIN, LABELS_MAX = 110, 320
GAP = 14  # between labels and chart
ROW, BAR, HEAD = 34, 22, 8
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 18, 13, 12

# Vermilion and blue of Okabe and Ito's palette, told apart with any colour vision; the vermilion darkened until white
# text on it has a contrast above 4.5 (WCAG 2.2, 1.4.3).
UP, DOWN, NONE = "#b84a00", "#0072b2", "#5b6672"
INK, MUTED, GUIDE, GRID, PAPER = "#1b232c", "#4d5965", "#76828e", "#e4e8ec", "#ffffff"

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
MAX_TEXT = 300

# What XML 1.0 cannot carry, and what would let a name reorder the text around it.
UNPRINTABLE = re.compile(
    "[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One row: ``phi`` carries the sum of attributions from ``start`` to ``end``, both counted from the base value."""

    name: str
    value: str
    phi: float
    start: float
    end: float

    @property
    def label(self) -> str:
        return f"{self.name} = {self.value}" if self.value else self.name


@dataclass(frozen=True, slots=True)
class Scale:
    """Margins, counted from the base value, to pixels. Counted so, small φ keep their digits beside a large base."""

    low: float
    high: float
    base: float
    left: float
    right: float

    def x(self, offset: float) -> float:
        return self.left + (offset - self.low) / (self.high - self.low) * (self.right - self.left)

    @property
    def decimals(self) -> int:
        """Decimals that show three digits of the whole span."""
        return decimals_for(self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of round margins, as many as fit without touching each other or the labels' column."""
        ticks: list[tuple[float, str]] = []
        middle, reach = (self.left + self.right) / 2, (self.right - self.left) / 2 + 6
        for wanted in (8, 6, 4, 3, 2):
            step = _round_up((self.high - self.low) / wanted)
            first, last = math.ceil((self.base + self.low) / step), math.floor((self.base + self.high) / step)
            decimals = max(0, -math.floor(math.log10(step)))
            ticks = [(self.x(k * step - self.base), _number(k * step, decimals)) for k in range(first, last + 1)]
            widest = max((_width(label, SMALL_SIZE) for _, label in ticks), default=0)
            if widest + 16 < step / (self.high - self.low) * (self.right - self.left):
                break
        return [(x, label) for x, label in ticks if abs(x - middle) + _width(label, SMALL_SIZE) / 2 <= reach]


def waterfall_svg(
    *,
    feature_names: Sequence[str],
    values: Sequence[float | str],
    phi: Sequence[float],
    base_value: float,
    margin: float,
    title: str,
    subtitle: str = "",
    push_up: str = "raises the score",
    push_down: str = "lowers the score",
    max_features: int = 9,
) -> str:
    """Draws one row's attributions to one output.

    Args:
        feature_names: names (features,). Any text: it is escaped, and shortened where it does not fit.
        values: the row's raw values (features,), numbers or any text; NaN reads "missing".
        phi: attributions (features,) in margin units, finite.
        base_value: margin before any feature is known.
        margin: the model's raw score of the row; ``base_value`` + Σφ up to rounding.
        title: heading; also what a screen reader announces.
        subtitle: second line, such as the decision's id and time.
        push_up: what a positive φ does, for the legend and the description.
        push_down: what a negative φ does.
        max_features: features with a row of their own, the largest |φ| first; the others share one. At least 1.

    Returns:
        An ``<svg>`` element, 860 wide, its height by the number of rows, without an XML declaration.

    Raises:
        ValueError: lengths differ, ``max_features`` is below 1, or a φ, the base value, the margin or a sum of them
            is not finite.
    """
    if not len(feature_names) == len(values) == len(phi):
        raise ValueError(
            f"feature_names, values and phi must have one length; they have {len(feature_names)}, {len(values)} "
            f"and {len(phi)}"
        )
    if max_features < 1:
        raise ValueError(f"max_features is {max_features}; it must be at least 1")
    for j, contribution in enumerate(phi):
        if not math.isfinite(contribution):
            raise ValueError(f"phi[{j}] is {contribution}; attributions must be finite")
    steps = _steps(feature_names, values, phi, max_features)
    labels = max((_width(step.label, TEXT_SIZE) for step in steps), default=0)
    left = math.ceil(PADDING + min(max(labels, LABELS_MIN), LABELS_MAX) + 1) + GAP
    scale = _scale(steps, base_value, margin, left, WIDTH - PADDING)
    chart = _Chart(scale, steps, margin, _clean(push_up), _clean(push_down))
    title = _clean(title)

    body, height = chart.draw(title, _clean(subtitle))
    description = chart.describe()
    # Pages show several charts, so the ids that tie the texts to the picture are its own.
    key = hashlib.sha256("\n".join([title, description, *body]).encode()).hexdigest()[:12]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{_px(height)}" '
        f'viewBox="0 0 {WIDTH} {_px(height)}" role="img" aria-labelledby="t{key} d{key}" '
        f'font-family="system-ui, sans-serif">'
    )
    head = [f'<title id="t{key}">{html.escape(title)}</title>', f'<desc id="d{key}">{html.escape(description)}</desc>']
    return "\n".join([opening, *head, *body, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Chart:
    scale: Scale
    steps: list[Step]
    margin: float
    push_up: str
    push_down: str

    def describe(self) -> str:
        """The picture in words, for those who cannot see it."""
        moves = [f"{step.label}: {self.effect(step)}." for step in self.steps]
        return " ".join([f"From the {self.base_text} to the {self.margin_text}.", *moves])

    def effect(self, step: Step) -> str:
        doing = self.push_up if step.phi > 0 else self.push_down if step.phi < 0 else "no effect"
        return f"{self.signed(step.phi)}, {doing}"

    def signed(self, phi: float) -> str:
        return ("+" if phi > 0 else "") + _number(phi, self.scale.decimals)

    def precise(self, margin: float) -> str:
        """Six digits, or what the scale shows where that is more; no trailing zeros."""
        own = 5 - math.floor(math.log10(abs(margin))) if margin else 0
        text = _number(margin, max(own, self.scale.decimals))
        return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text

    @property
    def base_text(self) -> str:
        return f"base value {self.precise(self.scale.base)}"

    @property
    def margin_text(self) -> str:
        return f"margin {self.precise(self.margin)}"

    def draw(self, title: str, subtitle: str) -> tuple[list[str], float]:
        """Lines of SVG, in painting order, and the height they take."""
        inner = WIDTH - 2 * PADDING
        y = PADDING + 16.0
        header = [_text(PADDING, y, _fit(title, inner, TITLE_SIZE * 1.06), size=TITLE_SIZE, weight=600)]
        if subtitle:
            y += 22
            header.append(_text(PADDING, y, _fit(subtitle, inner, TEXT_SIZE), fill=MUTED))
        y += 28
        header += self.legend(y)

        top = y + 46
        bottom = top + ROW * len(self.steps)
        height = bottom + 72
        paper = (
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{_px(height - 1)}" rx="8" '
            f'fill="{PAPER}" stroke="{GRID}"/>'
        )
        rows = [
            line for i, step in enumerate(self.steps) for line in self.row(step, top + ROW * (i + 0.5), last=i == 0)
        ]
        return [paper, *header, *self.axis(top, bottom), *rows], height

    def legend(self, y: float) -> Iterator[str]:
        x: float = PADDING
        room = (WIDTH - 2 * PADDING) / 2 - 40
        for sign, words, colour in ((1, self.push_up, UP), (-1, self.push_down, DOWN)):
            text = _fit(f"{'+' if sign > 0 else MINUS} {words}", room, SMALL_SIZE)
            start, end = (x, x + 24) if sign > 0 else (x + 24, x)
            yield _arrow(start, end, y - 4, 12, colour)
            yield _text(x + 32, y, text, size=SMALL_SIZE, fill=MUTED)
            x += 32 + _width(text, SMALL_SIZE) + 28

    def axis(self, top: float, bottom: float) -> Iterator[str]:
        scale = self.scale
        ticks = scale.ticks()
        base, margin = scale.x(0), scale.x(self.margin - scale.base)
        for x, _ in ticks:
            yield _line(x, top, x, bottom, GRID)
        yield _line(base, top - 4, base, bottom, GUIDE, dashes="4 3")
        yield _line(base, bottom + 25, base, bottom + 31, GUIDE)  # below the ticks' labels, down to its own
        yield _line(margin, top - 10, margin, bottom, GUIDE, dashes="4 3")
        yield _line(scale.left, bottom, scale.right, bottom, GUIDE)
        for x, label in ticks:
            yield _line(x, bottom, x, bottom + 5, GUIDE)
            yield _text(x, bottom + 20, label, size=SMALL_SIZE, fill=MUTED, anchor="middle")
        yield _text(scale.left - GAP, bottom + 20, "margin", size=SMALL_SIZE, fill=MUTED, anchor="end")
        yield self.mark(base, bottom + 44, self.base_text)
        yield self.mark(margin, top - 16, self.margin_text)

    def mark(self, x: float, y: float, text: str) -> str:
        half = _width(text, TEXT_SIZE * 1.06) / 2
        x = min(max(x, PADDING + half), WIDTH - PADDING - half)
        return _text(x, y, text, weight=600, anchor="middle")

    def row(self, step: Step, y: float, *, last: bool) -> Iterator[str]:
        scale = self.scale
        start, end = scale.x(step.start), scale.x(step.end)
        yield f'<g class="step"><title>{html.escape(f"{step.label}: {self.effect(step)}")}</title>'
        value = f" = {step.value}" if step.value else ""
        name = _fit(step.name, scale.left - GAP - PADDING - _width(value, TEXT_SIZE), TEXT_SIZE)
        label = f'{html.escape(name)}<tspan fill="{MUTED}">{html.escape(value)}</tspan>'
        yield _text(scale.left - GAP, y + 4.5, label, anchor="end", markup=True)
        if not last:
            yield _line(end, y - BAR / 2, end, y - ROW + BAR / 2, GUIDE)
        yield _arrow(start, end, y, BAR, UP if step.phi > 0 else DOWN if step.phi < 0 else NONE)
        yield self.bar_label(self.signed(step.phi), start, end, y + 4.5)
        yield "</g>"

    def bar_label(self, text: str, start: float, end: float, y: float) -> str:
        """Inside the bar where it fits, else beyond its tip, else, at the edge of the chart, behind it."""
        width = _width(text, SMALL_SIZE * 1.06)
        way = 1 if end >= start else -1
        if abs(end - start) >= width + HEAD + 10:
            middle = (start + end - way * HEAD) / 2
            return _text(middle, y, text, size=SMALL_SIZE, fill=PAPER, weight=600, anchor="middle")
        if not self.scale.left <= end + way * (width + 8) <= self.scale.right:
            way, end = -way, start
        anchor = "start" if way > 0 else "end"
        return _text(end + way * 7, y, text, size=SMALL_SIZE, weight=600, anchor=anchor, halo=True)


def _steps(names: Sequence[str], values: Sequence[float | str], phi: Sequence[float], max_features: int) -> list[Step]:
    """Rows from the top: largest |φ| first, ties in the features' order, the rest as one below."""
    order = sorted(range(len(phi)), key=lambda j: -abs(phi[j]))
    shown, others = order[:max_features], order[max_features:]
    rows = [(_clean(names[j]), _clean(_shown(values[j])), float(phi[j])) for j in shown]
    if others:
        rows.append((f"{len(others)} other feature{'s' * (len(others) > 1)}", "", math.fsum(phi[j] for j in others)))
    steps: list[Step] = []
    total = 0.0
    for name, value, contribution in reversed(rows):
        steps.append(Step(name, value, contribution, total, total + contribution))
        total += contribution
    return steps[::-1]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else as_written(value)


def _scale(steps: Sequence[Step], base: float, margin: float, left: float, right: float) -> Scale:
    reached = [0.0, margin - base, *(step.end for step in steps)]
    low, high = min(reached), max(reached)
    if not all(map(math.isfinite, (base, margin, high - low))):
        raise ValueError(f"base_value {base}, margin {margin} and their distances to Σφ must be finite")
    # Less than a float32 step of the margin is rounding; blown up to the full width it would mislead.
    least = max(abs(base) * 1e-6, abs(margin) * 1e-6, 1e-12, 1.0 if low == high else 0.0)
    room = max((high - low) * 0.04, (least - (high - low)) / 2)
    return Scale(low - room, high + room, base, left, right)


def _round_up(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((power * digit for digit in (1, 2, 5) if step <= power * digit), power * 10)


def _number(value: float, decimals: int) -> str:
    return fixed(value, decimals).replace("-", MINUS)


def _clean(text: str) -> str:
    """One line of printable text, bounded."""
    line = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text[: MAX_TEXT + 1].split()))
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + ELLIPSIS


def _width(text: str, size: float) -> float:
    """Estimate of a text's width, on the wide side of common sans-serif fonts, since the reader's is not known."""
    return size * sum(map(_advance, text))


def _advance(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.1
    if character in "ijl.,:;'|!()[]ftr I":
        return 0.40
    if character in "mwMW@%" + ELLIPSIS:
        return 1.0
    return 0.72 if character.isupper() or character in "+=<>~#" + MINUS else 0.63


def _fit(text: str, room: float, size: float) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if _width(text, size) <= room:
        return text
    end = len(text)
    while end and _width(text[:end] + ELLIPSIS, size) > room:
        end -= 1
    return text[:end].rstrip() + ELLIPSIS


def _px(length: float) -> str:
    return f"{length + 0.0:.2f}".rstrip("0").rstrip(".")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashes: str = "") -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="M{_px(x1)} {_px(y1)}L{_px(x2)} {_px(y2)}" stroke="{colour}"{style}/>'


def _arrow(start: float, end: float, y: float, height: float, colour: str) -> str:
    """A bar from ``start`` to its tip at ``end``; its outline keeps a bar of no length visible."""
    way = math.copysign(1, end - start)
    neck = end - way * min(HEAD, abs(end - start))
    up, down = y - height / 2, y + height / 2
    points = [(start, up), (neck, up), (end, y), (neck, down), (start, down)]
    path = " ".join(f"{_px(px)},{_px(py)}" for px, py in points)
    return f'<polygon points="{path}" fill="{colour}" stroke="{colour}" stroke-linejoin="round"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = TEXT_SIZE,
    fill: str = INK,
    weight: int = 400,
    anchor: str = "start",
    halo: bool = False,
    markup: bool = False,
) -> str:
    """``text`` is escaped here, unless it is ``markup`` already; ``halo`` keeps it readable across lines."""
    style = f' font-size="{size}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}"'
    if halo:
        style += f' stroke="{PAPER}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
    return f'<text x="{_px(x)}" y="{_px(y)}"{style}>{text if markup else html.escape(text)}</text>'
