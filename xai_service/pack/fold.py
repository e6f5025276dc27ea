"""Folds preprocessing into the trees behind it: a split on what a step made becomes a split on the raw column.

Preprocessing that makes each column of one raw column only decides, at each split, which raw values go left. Where it
never falls as the raw value rises (an imputer, a scaler), these are the values up to some float32, found by bisection;
where it looks values up (an encoder), they are a set of categories; and a missing value goes where what the steps make
of it goes. So the folded trees take raw rows, and send each the way that steps and trees together send it: exactly, for
each float32, each category, unknown ones and missing ones. Covers and leaves stay, and so does what attributions a raw
column gets: that of all columns made of it, as one player (ADR 11).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from xai_service.pack.columnwise import Derived
    from xai_service.pack.forest import Tree
    from xai_service.types import Float32Array, Float64Array, Int64Array

    Made = Callable[[Mapping[int, Float32Array]], Float64Array]


@dataclass(frozen=True, slots=True)
class Steps:
    """What preprocessing does, as far as folding asks.

    Attributes:
        columns: what each column that the trees see is made of.
        made: what it makes of raw values: for values of some raw columns, all of one length n, those that the trees
            see, float64 (n, columns). The other raw columns hold something that the steps take.
        values: of each raw column that is looked up, the values known: float32, ascending.
        unknown: of each of these in which other values may stand, one of those.
        takes_missing: the raw columns in which NaN may stand.
    """

    columns: Sequence[Derived]
    made: Made
    values: Mapping[int, Float32Array]
    unknown: Mapping[int, float]
    takes_missing: frozenset[int]


def fold(trees: Sequence[Tree], steps: Steps) -> tuple[Tree, ...]:
    """Returns trees that take raw rows. Their ``feature`` is the raw column.

    Raises:
        PackRefused: a split asks for a set of computed values.
    """
    splits = _Splits(trees)
    kinds = np.array([column.how for column in steps.columns])[splits.feature]
    outcome = _Outcome(len(splits.feature))
    missing = _made_of_missing(steps)
    finite = splits.goes_left(missing[splits.feature])
    known = np.isin(np.array([column.raw for column in steps.columns]), sorted(steps.takes_missing))[splits.feature]
    outcome.missing_left = np.where(known, finite, splits.missing_left)
    of_sets = splits.of_sets
    wrong = np.flatnonzero(of_sets & (kinds == "rising"))
    if len(wrong):
        raise PackRefused(
            f"column {splits.feature[wrong[0]]} of what the preprocessing makes holds the model's categories, and is "
            "computed from numbers: encode it with an OrdinalEncoder, or pass it through"
        )
    for i in np.flatnonzero(of_sets & (kinds == "same")):
        outcome.sets[int(i)] = splits.codes[i]
    _fold_rising(splits, np.flatnonzero(~of_sets & (kinds != "lookup")), steps, outcome)
    _fold_lookups(splits, np.flatnonzero(kinds == "lookup"), steps, outcome)
    raw = np.array([column.raw for column in steps.columns], np.int64)
    return tuple(splits.rebuilt(trees, raw, outcome))


class _Splits:
    """All splits of all trees, one after the other."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        nodes = [tree.splits for tree in trees]
        self.nodes = nodes

        def joined(values: Sequence[NDArray[np.generic]], kind: type) -> NDArray[np.generic]:
            return np.concatenate([one[at] for one, at in zip(values, nodes, strict=True)]).astype(kind)

        self.feature: Int64Array = joined([tree.feature for tree in trees], np.int64)  # type: ignore[assignment]
        self.inclusive = joined([tree.inclusive for tree in trees], np.bool_)
        self.missing_left = joined([tree.missing_left for tree in trees], np.bool_)
        exact = [tree.threshold if tree.exact is None else tree.exact for tree in trees]
        self.threshold: Float64Array = joined(exact, np.float64)  # type: ignore[assignment]
        rounds = np.repeat([tree.exact is None for tree in trees], [len(at) for at in nodes])
        self.rounds = rounds
        self.codes = [tree.codes(int(node)) for tree, at in zip(trees, nodes, strict=True) for node in at]
        self.of_sets = np.array([len(codes) > 0 for codes in self.codes], np.bool_)

    def goes_left(self, values: Float64Array, which: Int64Array | None = None) -> NDArray[np.bool_]:
        """Returns whether what the steps made goes left: at each split its value, or only at these splits."""
        at = np.arange(len(self.feature)) if which is None else which
        with np.errstate(over="ignore"):
            seen = np.where(self.rounds[at], values.astype(np.float32), values)
        threshold = self.threshold[at]
        left = np.where(self.inclusive[at], seen <= threshold, seen < threshold)
        for place in np.flatnonzero(self.of_sets[at]).tolist():
            left[place] = seen[place] in self.codes[int(at[place])]
        return np.asarray(np.where(np.isnan(seen), self.missing_left[at], left))

    def rebuilt(self, trees: Sequence[Tree], raw: Int64Array, outcome: _Outcome) -> list[Tree]:
        start = 0
        made = []
        for tree, nodes in zip(trees, self.nodes, strict=True):
            here = slice(start, start + len(nodes))
            start += len(nodes)

            def changed(values: NDArray[np.generic], new: NDArray[np.generic], at: Int64Array = nodes) -> NDArray:  # type: ignore[type-arg]
                copy = values.copy()
                copy[at] = new
                return copy

            swapped = changed(np.zeros(len(tree.left), np.bool_), outcome.swapped[here])
            sets = [outcome.sets.get(i, np.empty(0, np.float32)) for i in range(here.start, here.stop)]
            sizes = changed(np.zeros(len(tree.left), np.int64), np.array([len(one) for one in sets], np.int64))
            made.append(
                replace(
                    tree,
                    left=np.where(swapped, tree.right, tree.left),
                    right=np.where(swapped, tree.left, tree.right),
                    feature=changed(tree.feature, raw[tree.feature[nodes]]),
                    threshold=changed(tree.threshold, outcome.threshold[here]),
                    inclusive=changed(tree.inclusive, outcome.inclusive[here]),
                    missing_left=changed(tree.missing_left, outcome.missing_left[here] ^ outcome.swapped[here]),
                    set_begin=np.r_[0, np.cumsum(sizes)],
                    set_value=np.concatenate([*sets, np.empty(0, np.float32)]),
                    exact=None,
                )
            )
        return made


class _Outcome:
    """What the splits become. ``missing_left`` is before the exchange of children."""

    def __init__(self, n: int) -> None:
        self.threshold = np.zeros(n, np.float32)
        self.inclusive = np.zeros(n, np.bool_)
        self.missing_left = np.zeros(n, np.bool_)
        self.swapped = np.zeros(n, np.bool_)
        self.sets: dict[int, Float32Array] = {}


def _made_of_missing(steps: Steps) -> Float64Array:
    """Returns what each column that the trees see is where its raw column is missing; NaN where that may not be."""
    gap = np.array([np.nan], np.float32)
    made = steps.made(dict.fromkeys(sorted(steps.takes_missing), gap))[0]
    may = [column.raw in steps.takes_missing for column in steps.columns]
    return np.where(may, made, np.nan)


# float32 in order, as whole numbers: the bits of those above 0, and their negatives.
_LARGEST = int(np.float32(np.finfo(np.float32).max).view(np.int32))


def _float32(order: Int64Array) -> Float32Array:
    bits = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -bits, bits).astype(np.float32)


def _fold_rising(splits: _Splits, which: Int64Array, steps: Steps, outcome: _Outcome) -> None:
    """Finds the last float32 that goes left, at all these splits at once."""
    by_raw: dict[int, list[int]] = {}
    # Many splits share a threshold.
    keys = np.column_stack(
        [splits.feature[which], splits.threshold[which].view(np.int64), splits.inclusive[which], splits.rounds[which]]
    )
    _, first, again = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    asked = which[first]
    for place, i in enumerate(asked.tolist()):
        by_raw.setdefault(steps.columns[splits.feature[i]].raw, []).append(place)
    n = max((len(places) for places in by_raw.values()), default=0)

    def go_left(order: Int64Array) -> NDArray[np.bool_]:
        values = _float32(order)
        seen = np.empty(len(asked))
        made = steps.made({raw: np.resize(values[places], n) for raw, places in by_raw.items()})
        for places in by_raw.values():
            seen[places] = made[np.arange(len(places)), splits.feature[asked[places]]]
        return splits.goes_left(seen, asked)

    if not n:
        return
    low, high = np.full(len(asked), -_LARGEST - 1), np.full(len(asked), _LARGEST + 1)  # low goes left, high does not
    while (high - low > 1).any():
        middle = (low + high) // 2
        middle = np.clip(middle, -_LARGEST, _LARGEST)
        left = go_left(middle)
        open_ = high - low > 1
        low, high = np.where(open_ & left, middle, low), np.where(open_ & ~left, middle, high)
    last = np.where(low < -_LARGEST, np.float32(-np.inf), _float32(np.maximum(low, -_LARGEST)))
    last = np.where(high > _LARGEST, np.float32(np.inf), last)
    outcome.threshold[which] = last[again.ravel()]
    outcome.inclusive[which] = last[again.ravel()] > -np.inf


def _fold_lookups(splits: _Splits, which: Int64Array, steps: Steps, outcome: _Outcome) -> None:
    """Finds the set of values that go left, or, where unknown ones do, the set of those that go right."""
    raws = sorted({steps.columns[splits.feature[i]].raw for i in which.tolist()})
    if not raws:
        return
    n = max(len(steps.values[raw]) for raw in raws)
    tried = {
        raw: np.append(np.resize(steps.values[raw], n), steps.unknown.get(raw, steps.values[raw][0])) for raw in raws
    }
    made = steps.made({raw: values.astype(np.float32) for raw, values in tried.items()})
    for i in which.tolist():
        raw = steps.columns[splits.feature[i]].raw
        values = steps.values[raw]
        seen = made[:, splits.feature[i]]
        left = splits.goes_left(seen, np.full(n + 1, i))
        of_known, of_unknown = left[: len(values)], bool(left[-1]) and raw in steps.unknown
        outcome.swapped[i] = of_unknown
        members = values[~of_known] if of_unknown else values[of_known]
        if len(members):
            outcome.sets[i] = members
        else:  # no value goes there
            outcome.threshold[i] = -np.inf
