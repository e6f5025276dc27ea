"""Rows that show a wrong conversion: where converters go wrong silently is on thresholds and at missing values.

A probe is one of the caller's rows with a few values replaced, so that it stays close to real data:

* ``caller``: nothing replaced.
* ``missing``: NaN in one feature, in all of them, or in the feature of a split that the row reaches.
* ``threshold``: the row reaches a split and stands exactly on its threshold, or one float32 step below or above: where
  ``<`` and ``<=``, or a threshold and its rounded copy, part. A split at infinity asks whether there is a value: any.
* ``category``: the row has a code that a set holds, or one that none does: beyond the last, or -1; some reach a split.

A row reaches a split when it lies in the intersection of its ancestors' half-open intervals ``low <= value < high``
(``value <= t`` is ``value < t⁺``, with t⁺ the next float32), or is NaN where all ancestors on that feature send NaN
that way; and, where ancestors ask for sets, when it has a code that these let pass. Values that need replacing are set
on the interval's own edge, another threshold, or to the first such code.
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

Kind = Literal["caller", "missing", "threshold", "category"]

MAX_CALLER_ROWS = 20_000
MAX_MISSING_ROWS = 20_000
MAX_SPLITS = 20_000
MAX_CATEGORY_ROWS = 20_000
_ROWS_FOR_EACH_FEATURE = 16
_ROWS_FOR_EACH_CODE = 4
_CODES_FOR_EACH_SPLIT = 12
_SHOWN_VALUES = 24


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


def shown_row(probe: Probe, row: Float32Array, names: Sequence[str]) -> str:
    """Returns the row's values for people, those that the probe replaced first."""
    edited = list(probe.edits) if len(probe.edits) < len(names) else []
    columns = list(dict.fromkeys([*reversed(edited), *range(min(len(names), _SHOWN_VALUES))]))[:_SHOWN_VALUES]
    more = len(names) - len(columns)
    return ", ".join(f"{names[column]}={row[column]}" for column in columns) + (f", and {more} more" if more else "")


def caller_probes(X: Float32Array) -> list[Probe]:
    """Returns the caller's rows, at most `MAX_CALLER_ROWS` of them, evenly drawn."""
    return [Probe("caller", int(i), {}, f"row {i} of X") for i in evenly(len(X), MAX_CALLER_ROWS)]


def missing_probes(X: Float32Array, names: Sequence[str]) -> list[Probe]:
    """Returns a few of the caller's rows with each feature missing alone, and one row of nothing but NaN."""
    each = min(_ROWS_FOR_EACH_FEATURE, max(1, MAX_MISSING_ROWS // len(names)))
    columns = evenly(len(names), MAX_MISSING_ROWS)
    alone = [
        Probe("missing", int(i), {int(column): math.nan}, f"row {i} of X without {names[column]!r}")
        for column in columns
        for i in evenly(len(X), each)
    ]
    return [*alone, Probe("missing", 0, dict.fromkeys(range(len(names)), math.nan), "a row of nothing but NaN")]


def category_probes(X: Float32Array, trees: Sequence[Tree], names: Sequence[str]) -> list[Probe]:
    """Returns a few of the caller's rows with each code that a set holds, one beyond them all, and -1."""
    probes = []
    codes = _codes_by_feature(trees)
    most = max(2, MAX_CATEGORY_ROWS // _ROWS_FOR_EACH_CODE // max(1, len(codes)))
    for feature, known in codes.items():
        tried = np.concatenate([[-1.0], known[evenly(len(known), most)], [known[-1] + 1.0]])
        probes += [
            Probe("category", int(i), {feature: code}, f"row {i} of X with {names[feature]!r} = {code:g}")
            for code in tried.tolist()
            for i in evenly(len(X), _ROWS_FOR_EACH_CODE)
        ]
    return probes


def _codes_by_feature(trees: Sequence[Tree]) -> dict[int, Float32Array]:
    """Returns the codes that sets hold, ascending, by feature."""
    if not trees:
        return {}
    features = np.concatenate([np.repeat(tree.feature, tree.set_sizes) for tree in trees])
    values = np.concatenate([tree.set_value for tree in trees])
    return {int(feature): np.unique(values[features == feature]) for feature in np.unique(features)}


def split_probes(X: Float32Array, trees: Sequence[Tree], names: Sequence[str]) -> tuple[list[Probe], int, int]:
    """Returns probes of at most `MAX_SPLITS` splits, evenly drawn, how many they reach, and how many there are."""
    if not trees:
        return [], 0, 0
    splits = [tree.splits for tree in trees]
    ends = np.cumsum([len(nodes) for nodes in splits])
    total = int(ends[-1])
    probes: list[Probe] = []
    reached = 0
    for count, k in enumerate(evenly(total, MAX_SPLITS)):
        t = int(np.searchsorted(ends, k, side="right"))
        node = int(splits[t][k - ends[t]])
        tree, source = trees[t], count % len(X)
        split = f"the split {names[int(tree.feature[node])]!r} {_condition(tree, node)} (tree {t}, node {node})"
        found = [
            Probe(kind, source, edits, f"{where} {split}") for kind, edits, where in _around(X[source], tree, node)
        ]
        probes += found
        reached += any(probe.kind != "missing" for probe in found)
    return probes, reached, total


def _condition(tree: Tree, node: int) -> str:
    codes = tree.codes(node)
    if not len(codes):
        return f"{'<=' if tree.inclusive[node] else '<'} {tree.threshold[node]}"
    shown = ", ".join(f"{code:g}" for code in codes[:8].tolist())
    return f"in {{{shown}{', …' if len(codes) > 8 else ''}}}"


def evenly(n: int, most: int) -> Int64Array:
    """Returns all of 0 to n - 1, or ``most`` of them at even distances."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


@dataclass(slots=True)
class _Needed:
    """Values of one feature that lead to a node: ``low <= value < high``, codes let pass, and whether NaN is."""

    low: float = -math.inf
    high: float = math.inf
    codes: frozenset[float] | None = None  # None: all but those excluded
    excluded: frozenset[float] = frozenset()
    missing: bool = True

    def holds(self, value: float) -> bool:
        if math.isnan(value):
            return self.missing
        if value in self.excluded or (self.codes is not None and value not in self.codes):
            return False
        return self.low <= value < self.high

    def any_value(self) -> float | None:
        """Returns a value that leads to the node, or ``None`` where none does."""
        edges = (self.low, _step(self.high, -math.inf), 0.0)
        # Of one more code than are excluded, one is not.
        codes = sorted(self.codes or ()) if self.codes is not None else range(len(self.excluded) + 1)
        for value in (*edges, *map(float, codes)):
            if math.isfinite(value) and self.holds(value):
                return value
        return math.nan if self.missing else None

    def take_set(self, codes: frozenset[float], *, inside: bool) -> None:
        if inside:
            self.codes = codes if self.codes is None else self.codes & codes
        else:
            self.excluded |= codes


def _step(value: float, towards: float) -> float:
    """Returns the float32 next to a float32."""
    with np.errstate(over="ignore"):  # the step beyond the greatest float32 is infinity, as it should be
        return float(np.nextafter(np.float32(value), np.float32(towards)))


def _path(tree: Tree, node: int) -> dict[int, _Needed]:
    """Returns, for each feature that the node's ancestors look at, the values that lead to the node."""
    path: dict[int, _Needed] = defaultdict(_Needed)
    child, parent = node, int(tree.parent[node])
    while parent >= 0:
        needed = path[int(tree.feature[parent])]
        went_left = bool(tree.left[parent] == child)
        codes = tree.codes(parent)
        if len(codes):
            needed.take_set(frozenset(codes.tolist()), inside=went_left)
        else:
            bound = float(tree.threshold[parent])
            if tree.inclusive[parent]:
                bound = _step(bound, math.inf)
            if went_left:
                needed.high = min(needed.high, bound)
            else:
                needed.low = max(needed.low, bound)
        needed.missing &= bool(tree.missing_left[parent]) == went_left
        child, parent = parent, int(tree.parent[parent])
    return path


def _around(row: Float32Array, tree: Tree, node: int) -> Iterator[tuple[Kind, dict[int, float], str]]:
    """Yields kind, edits and position of the probes at a split; nothing where no row reaches it."""
    path = _path(tree, node)
    own = int(tree.feature[node])
    needed = path.pop(own, _Needed())
    edits: dict[int, float] = {}
    for feature, other in path.items():
        if not other.holds(float(row[feature])):
            value = other.any_value()
            if value is None:
                return
            edits[feature] = value
    kind, tried = _values_at(tree, node)
    if math.isinf(tree.threshold[node]):  # asks whether there is a value; scikit-learn's trees do
        value = needed.any_value()
        tried = [] if value is None else [(value, "with a value at")]
    for value, where in tried:
        if math.isfinite(value) and needed.holds(value):
            yield kind, {**edits, own: value}, where
    if needed.missing:
        yield "missing", {**edits, own: math.nan}, "without a value at"


def _values_at(tree: Tree, node: int) -> tuple[Kind, list[tuple[float, str]]]:
    """Returns the values to try at a split, each with where it stands."""
    codes = tree.codes(node)
    if len(codes):
        inside = codes[evenly(len(codes), _CODES_FOR_EACH_SPLIT)].tolist()
        known = set(codes.tolist())
        outside = [next(float(code) for code in range(len(codes) + 1) if code not in known)]
        return "category", [*((code, "with a code of") for code in inside), *((code, "beside") for code in outside)]
    threshold = float(tree.threshold[node])
    return "threshold", [
        (threshold, "on the threshold of"),
        (_step(threshold, -math.inf), "one step below"),
        (_step(threshold, math.inf), "one step above"),
    ]
