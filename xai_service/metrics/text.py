"""Prometheus' text format, version 0.0.4: what a family of metrics is, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from xai_service.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its label sets.

    Attributes:
        name: as Prometheus knows it, unit and ``_total`` included.
        kind: its type.
        help: one line, without a backslash.
        lines: its samples, written.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    lines: list[str] = field(default_factory=list)

    def add(self, value: float, labels: Mapping[str, str] | None = None) -> Self:
        """Adds a sample."""
        self.lines.append(f"{self.name}{_braced(labels or {})} {_number(value)}")
        return self

    def add_histogram(
        self, histogram: Histogram, labels: Mapping[str, str] | None = None, *, unit: float = 1.0
    ) -> Self:
        """Adds a histogram, whose observations are in ``1 / unit`` of the metric's unit: 1e6 for µs of seconds."""
        labels = labels or {}
        count = 0
        for bound, count in histogram.cumulative():
            self.lines.append(f"{self.name}_bucket{_braced({**labels, 'le': _number(bound / unit)})} {count}")
        self.lines.append(f"{self.name}_sum{_braced(labels)} {_number(histogram.sum / unit)}")
        self.lines.append(f"{self.name}_count{_braced(labels)} {count}")
        return self


def render(families: Iterable[Family]) -> bytes:
    """Returns the text of the families that have samples."""
    lines: list[str] = []
    for family in families:
        if family.lines:
            lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}", *family.lines)
    lines.append("")
    return "\n".join(lines).encode(errors="replace")


def _braced(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 (NaN)
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
