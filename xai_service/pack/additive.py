"""Models that are a sum of functions of one column each: linear ones, alone or behind columnwise preprocessing.

Each column's function is asked for, never written anew. It is a straight line of the number, or constant but for the
values that encoders look up, or both added. Lines are served as one product of what is left of the values when their
means are taken off; constants as a tree for each such column, in which every known value has its leaf, and so have
those unknown and missing. Leaves, too, are less their mean, and their covers are counts of the rows explained against.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import PackRefused
from xai_service.pack.covers import count_rows
from xai_service.pack.forest import Tree, level_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array

    Terms = Callable[[Float32Array], Float64Array]

_STRAIGHT = 1e-9  # of a column's largest term: what may lie beside its line
_CHUNK_VALUES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Lookups:
    """Which values stand in the columns.

    Attributes:
        known: of each column in which values are looked up, those known, float32, ascending.
        unknown: of those in which other values may stand too, one such value.
        takes_missing: the columns in which NaN may stand.
    """

    known: Mapping[int, Float32Array] = dataclasses.field(default_factory=dict)
    unknown: Mapping[int, float] = dataclasses.field(default_factory=dict)
    takes_missing: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Additive:
    """A margin that is the sum of ``intercept`` and of what each column adds.

    Attributes:
        intercept: float64 (outputs,).
        straight: for float32 (n, features) what each column's line adds, float64 (n, features, outputs).
        row: float32 (features,), one row that is taken.
        looked_up: as ``straight``, what is looked up in each column adds; ``None`` where nothing is.
        lookups: which values are.
    """

    intercept: Float64Array
    straight: Terms
    row: Float32Array
    looked_up: Terms | None = None
    lookups: Lookups = dataclasses.field(default_factory=Lookups)

    def terms(self, rows: Float32Array) -> Float64Array:
        """Returns what each column adds, float64 (n, features, outputs)."""
        return self.straight(rows) if self.looked_up is None else self.straight(rows) + self.looked_up(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The linear part as it is served; see `xai_service.model.linear_part`, whose names these are, in float64.

    Attributes:
        mean: float64 (features,), of ``mean`` and ``rest`` together.
        fill: float64 (features,), what stands for a missing value's distance from it; ``None`` where none may be.
        weights: float64 (features, outputs).
    """

    mean: Float64Array
    fill: Float64Array | None
    weights: Float64Array


def centred(native: NativeModel, X: Float32Array, against: Float32Array, names: Sequence[str]) -> NativeModel:
    """Returns the model as it is written: its line, its trees and its base values, explained against some rows.

    Args:
        native: a model with ``additive``.
        X: float32 (n, features), the caller's rows.
        against: float32 (rows, features), those to explain against.
        names: of the features.

    Raises:
        PackRefused: a column is no straight line; or a weight is too large for float32.
    """
    model = native.additive
    if model is None:
        raise ValueError("not a sum of functions of one column each")
    slope, at, value = _lines(model, X, names)
    fill, beside = _fills(model, slope, at, value)
    filled = against.astype(np.float64)
    filled = np.where(np.isnan(filled), fill, filled)
    mean = filled.mean(axis=0)
    base = model.intercept + (value + slope * (mean - at)[:, None]).sum(axis=0)
    trees = []
    for column, pieces in _pieces(model, beside).items():
        tree = _tree(column, pieces)
        cover = count_rows(tree, against)
        leaves = np.flatnonzero(tree.left < 0)
        values = pieces.leaves()
        expected = cover[leaves] @ values / cover[0]
        base = base + expected
        tree.leaf[leaves] = values - expected
        trees.append(dataclasses.replace(tree, cover=cover))
    taken = np.isin(np.arange(len(mean)), sorted(model.lookups.takes_missing))
    line = Line(mean, np.where(taken, fill - mean, 0.0) if taken.any() else None, slope)
    with np.errstate(over="ignore"):
        sizes = [
            np.asarray(one, np.float32) for one in (mean, slope, base, line.fill if line.fill is not None else 0.0)
        ]
    if not all(np.isfinite(one).all() for one in sizes):
        raise PackRefused("a weight, a mean or the base value is not finite in float32: scale the model's columns")
    base = base.astype(np.float32).astype(np.float64)
    expected_base = np.asarray(native.predict(against)[0], np.float64).mean(axis=0)

    def contributions(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        return model.terms(rows) - of_background, expected_base

    of_background = _mean_terms(model, against)
    return dataclasses.replace(
        native, line=line, trees=tuple(trees), base=base, contributions=contributions,
        contributions_by=native.contributions_by or "the model's own weights",
    )  # fmt: skip


def _mean_terms(model: Additive, rows: Float32Array) -> Float64Array:
    step = max(1, _CHUNK_VALUES // (rows.shape[1] * len(model.intercept)))
    total = sum(model.terms(rows[start : start + step]).sum(axis=0) for start in range(0, len(rows), step))
    return np.asarray(total / len(rows))


def _lines(model: Additive, X: Float32Array, names: Sequence[str]) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Returns each column's slope, float64 (features, outputs), and a point of its line: where, and what it adds."""
    low, high = (np.nan_to_num(one(X, axis=0), nan=0.0) for one in (np.fmin.reduce, np.fmax.reduce))
    for column, known in model.lookups.known.items():
        low[column], high[column] = known[0], known[-1]
    alike = low == high
    high = np.where(
        alike & ~np.isin(np.arange(len(low)), list(model.lookups.known)), low + np.maximum(1, np.abs(low)), high
    )
    below, above = model.straight(np.stack([low, high]).astype(np.float32))
    span = high.astype(np.float64) - low
    slope = np.divide(above - below, span[:, None], out=np.zeros_like(below), where=span[:, None] != 0)
    step = max(1, _CHUNK_VALUES // slope.size)
    largest = np.maximum(np.abs(below), np.abs(above))
    for start in range(0, len(X), step):
        rows = X[start : start + step]
        found = model.straight(rows)
        due = below + slope * (rows.astype(np.float64) - low)[:, :, None]
        off = np.abs(found - due) > _STRAIGHT * np.maximum(largest, np.abs(found))
        off &= ~np.isnan(rows)[:, :, None]
        if off.any():
            row, column, _ = (int(i) for i in np.argwhere(off)[0])
            raise PackRefused(
                f"column {names[column]!r} is no straight line of what the linear model adds up (at "
                f"{rows[row, column]}, row {start + row} of X): apply the step that bends it to the data before, and "
                "train and pack on what it gives"
            )
    return slope, low.astype(np.float64), below


def _fills(
    model: Additive, slope: Float64Array, at: Float64Array, value: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Returns the number that stands for a missing value in each column, and what a missing value adds besides.

    An imputer puts a number in, and the line's own value there is all; nothing else is added then.
    """
    beside = np.zeros_like(slope)
    if not model.lookups.takes_missing:
        return at, beside
    row = model.row.copy()
    row[sorted(model.lookups.takes_missing)] = np.nan
    missing = model.straight(row[None])[0] - value
    square = (slope * slope).sum(axis=1)
    fill = at + np.divide((missing * slope).sum(axis=1), square, out=np.zeros(len(at)), where=square > 0)
    rest = missing - slope * (fill - at)[:, None]
    is_more = (np.abs(rest) > _STRAIGHT * np.maximum(np.abs(missing), np.abs(value))).any(axis=1)
    taken = np.isin(np.arange(len(at)), sorted(model.lookups.takes_missing))
    is_more &= taken
    beside[is_more] = rest[is_more]
    return np.where(taken, fill, at), beside


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """A function that is constant between cuts, from the left: up to the cut itself, where it is inclusive.

    Attributes:
        cuts: float32 (pieces - 1,); ``inclusive``: bool, likewise.
        values: float64 (pieces, outputs); ``missing``: (outputs,), of NaN.
    """

    cuts: Float32Array
    inclusive: np.ndarray[tuple[int], np.dtype[np.bool_]]
    values: Float64Array
    missing: Float64Array

    def leaves(self) -> Float64Array:
        """Returns the values in the order of the tree's leaves."""
        return np.concatenate([self.values, self.missing[None]])[_Layout(len(self.values)).leaves]


def _pieces(model: Additive, beside: Float64Array) -> dict[int, _Pieces]:
    """Returns what is constant in each column where anything is."""
    zero = np.zeros((1, beside.shape[1]))
    nothing = (np.empty(0, np.float32), np.empty(0, np.bool_))
    found = {
        int(column): _Pieces(*nothing, zero, beside[column]) for column in np.flatnonzero((beside != 0).any(axis=1))
    }
    if model.looked_up is None:
        return found
    n = max(len(values) for values in model.lookups.known.values())
    rows = np.tile(model.row, (n + 2, 1))
    for column, known in model.lookups.known.items():
        rows[:n, column] = np.resize(known, n)
        rows[n, column] = model.lookups.unknown.get(column, known[0])
        rows[n + 1, column] = np.nan if column in model.lookups.takes_missing else known[0]
    added = model.looked_up(rows)
    for column, known in model.lookups.known.items():
        of_known, of_unknown, missing = added[: len(known), column], added[n, column], added[n + 1, column]
        if column in model.lookups.unknown:  # it is any number but the known ones, between them too
            values = np.repeat(of_unknown[None], 2 * len(known) + 1, axis=0)
            values[1::2] = of_known
            cuts, inclusive = np.repeat(known, 2), np.tile([False, True], len(known))
        else:
            values, cuts, inclusive = of_known, known[:-1], np.ones(len(known) - 1, np.bool_)
        differs = (values[1:] != values[:-1]).any(axis=1)
        kept = np.r_[True, differs]
        found[column] = _Pieces(cuts[differs], inclusive[differs], values[kept], missing + beside[column])
    return found


class _Layout:
    """A balanced tree over pieces, level by level; at its root NaN goes its own way.

    Attributes:
        left, right: children, -1 in leaves; ``cut``: of each split, which; -1 at the root, which asks whether there is
            a value. ``leaves``: which piece each leaf is of, in the order of the nodes; the last is NaN's.
    """

    def __init__(self, pieces: int) -> None:
        left, right, cut, piece = [1], [2], [-1], [-1]
        waiting = [(0, pieces - 1), (pieces, pieces)]  # of the nodes 1, 2, …: from which piece to which
        for first, last in waiting:
            split = first != last
            middle = (first + last) // 2
            left.append(len(waiting) + 1 if split else -1)
            right.append(len(waiting) + 2 if split else -1)
            cut.append(middle if split else -1)
            piece.append(-1 if split else first)
            if split:
                waiting += [(first, middle), (middle + 1, last)]
        self.left, self.right, self.cut = (np.array(one, np.int64) for one in (left, right, cut))
        self.leaves = np.array([one for one in piece if one >= 0], np.int64)


def _tree(column: int, pieces: _Pieces) -> Tree:
    """Returns the tree, with leaves and covers yet to come."""
    layout = _Layout(len(pieces.values))
    order, parent, left, right = level_order(layout.left, layout.right, 0)
    if not np.array_equal(order, np.arange(len(order))):
        raise AssertionError("the nodes do not stand level by level")
    asks = layout.cut >= 0
    threshold = np.zeros(len(left), np.float32)
    threshold[asks] = pieces.cuts[layout.cut[asks]]
    threshold[0] = np.inf
    inclusive = np.zeros(len(left), np.bool_)
    inclusive[asks] = pieces.inclusive[layout.cut[asks]]
    inclusive[0] = True
    width = pieces.values.shape[1]
    return Tree(
        left=left,
        right=right,
        parent=parent,
        feature=np.where(left >= 0, column, 0),
        threshold=threshold,
        inclusive=inclusive,
        missing_left=np.zeros(len(left), np.bool_),
        leaf=np.zeros((len(left), width), np.float32),
        outputs=np.arange(width),
        cover=np.empty(0),
        set_begin=np.zeros(len(left) + 1, np.int64),
        set_value=np.empty(0, np.float32),
    )
