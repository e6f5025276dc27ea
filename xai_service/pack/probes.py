"""Rows that show a wrong conversion: where converters go wrong silently is on thresholds and at missing values.

A probe is one of the caller's rows with a few values replaced, so that it stays close to real data:

* ``caller``: nothing replaced.
* ``missing``: NaN in one feature, in all of them, or in the feature of a split that the row reaches.
* ``threshold``: the row reaches a split and stands exactly on its threshold, or one float32 step below or above: where
  ``<`` and ``<=``, or a threshold and its rounded copy, part.

A row reaches a split when it lies in the intersection of its ancestors' half-open intervals ``low <= value < high``
(``value <= t`` is ``value < t⁺``, with t⁺ the next float32), or is NaN where all ancestors on that feature send NaN
that way. Values that need replacing are set on the interval's own edge, another threshold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xai_service.pack.forest import Tree
    from xai_service.types import Float32Array, Int64Array

Kind = Literal["caller", "missing", "threshold"]

MAX_CALLER_ROWS = 20_000
MAX_MISSING_ROWS = 20_000
MAX_SPLITS = 20_000
_ROWS_FOR_EACH_FEATURE = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """One row to compare on.

    Attributes:
        kind: what it probes.
        source: the caller's row that it starts from.
        edits: the values replaced, by column; each a float32 or NaN.
        where: what it stands on, for people.
    """

    kind: Kind
    source: int
    edits: dict[int, float]
    where: str


def materialise(X: Float32Array, probes: Sequence[Probe]) -> Float32Array:
    """Returns the probes' rows, float32 (probes, features)."""
    rows = X[[probe.source for probe in probes]]
    places = [(i, column) for i, probe in enumerate(probes) for column in probe.edits]
    if places:
        rows[tuple(np.array(places).T)] = [value for probe in probes for value in probe.edits.values()]
    return rows


def caller_probes(X: Float32Array) -> list[Probe]:
    """Returns the caller's rows, at most `MAX_CALLER_ROWS` of them, evenly drawn."""
    return [Probe("caller", int(i), {}, f"row {i} of X") for i in _evenly(len(X), MAX_CALLER_ROWS)]


def missing_probes(X: Float32Array, names: Sequence[str]) -> list[Probe]:
    """Returns a few of the caller's rows with each feature missing alone, and one row of nothing but NaN."""
    each = min(_ROWS_FOR_EACH_FEATURE, max(1, MAX_MISSING_ROWS // len(names)))
    columns = _evenly(len(names), MAX_MISSING_ROWS)
    alone = [
        Probe("missing", int(i), {int(column): math.nan}, f"row {i} of X without {names[column]!r}")
        for column in columns
        for i in _evenly(len(X), each)
    ]
    return [*alone, Probe("missing", 0, dict.fromkeys(range(len(names)), math.nan), "a row of nothing but NaN")]


def split_probes(X: Float32Array, trees: Sequence[Tree], names: Sequence[str]) -> tuple[list[Probe], int, int]:
    """Returns probes of at most `MAX_SPLITS` splits, evenly drawn, how many they reach, and how many there are."""
    splits = [tree.splits for tree in trees]
    ends = np.cumsum([len(nodes) for nodes in splits])
    total = int(ends[-1])
    probes: list[Probe] = []
    reached = 0
    for count, k in enumerate(_evenly(total, MAX_SPLITS)):
        t = int(np.searchsorted(ends, k, side="right"))
        node = int(splits[t][k - ends[t]])
        name, tree, source = names[int(trees[t].feature[node])], trees[t], count % len(X)
        comparison = f"{'<=' if tree.inclusive[node] else '<'} {tree.threshold[node]}"
        split = f"the split {name!r} {comparison} (tree {t}, node {node})"
        found = [
            Probe(kind, source, edits, f"{where} {split}") for kind, edits, where in _around(X[source], tree, node)
        ]
        probes += found
        reached += any(probe.kind == "threshold" for probe in found)
    return probes, reached, total


def _evenly(n: int, most: int) -> Int64Array:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


@dataclass(slots=True)
class _Interval:
    """Values of one feature that lead to a node: ``low <= value < high``, and whether NaN does."""

    low: float = -math.inf
    high: float = math.inf
    missing: bool = True

    def holds(self, value: float) -> bool:
        return self.missing if math.isnan(value) else self.low <= value < self.high

    def any_value(self) -> float | None:
        """Returns a value that leads to the node, or ``None`` where none does."""
        if self.low < self.high:
            for edge in (self.low, _step(self.high, -math.inf), 0.0):
                if math.isfinite(edge) and self.holds(edge):
                    return edge
        return math.nan if self.missing else None


def _step(value: float, towards: float) -> float:
    """Returns the float32 next to a float32."""
    with np.errstate(over="ignore"):  # the step beyond the greatest float32 is infinity, as it should be
        return float(np.nextafter(np.float32(value), np.float32(towards)))


def _path(tree: Tree, node: int) -> dict[int, _Interval]:
    """Returns, for each feature that the node's ancestors look at, the values that lead to the node."""
    intervals: dict[int, _Interval] = defaultdict(_Interval)
    child, parent = node, int(tree.parent[node])
    while parent >= 0:
        interval = intervals[int(tree.feature[parent])]
        bound = float(tree.threshold[parent])
        if tree.inclusive[parent]:
            bound = _step(bound, math.inf)
        went_left = tree.left[parent] == child
        if went_left:
            interval.high = min(interval.high, bound)
        else:
            interval.low = max(interval.low, bound)
        interval.missing &= bool(tree.missing_left[parent]) == bool(went_left)
        child, parent = parent, int(tree.parent[parent])
    return intervals


def _around(row: Float32Array, tree: Tree, node: int) -> Iterator[tuple[Kind, dict[int, float], str]]:
    """Yields kind, edits and position of the probes at a split; nothing where no row reaches it."""
    intervals = _path(tree, node)
    own = int(tree.feature[node])
    interval = intervals.pop(own, _Interval())
    edits: dict[int, float] = {}
    for feature, needed in intervals.items():
        if not needed.holds(float(row[feature])):
            value = needed.any_value()
            if value is None:
                return
            edits[feature] = value
    threshold = float(tree.threshold[node])
    for value, where in (
        (threshold, "on the threshold of"),
        (_step(threshold, -math.inf), "one step below"),
        (_step(threshold, math.inf), "one step above"),
    ):
        if math.isfinite(value) and interval.holds(value):
            yield "threshold", {**edits, own: value}, where
    if interval.missing:
        yield "missing", {**edits, own: math.nan}, "without a value at"
