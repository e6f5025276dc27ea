"""Probes reach the splits that they say they reach, with the value that they say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from xai_service.pack import probes
from xai_service.pack.forest import Tree
from xai_service.pack.xgboost import read

if TYPE_CHECKING:
    from collections.abc import Callable

    import xgboost

    from xai_service.types import Float32Array

    Train = Callable[..., xgboost.Booster]

NAMES = list("abcde")


def path(tree: Tree, row: Float32Array) -> list[int]:
    """Walks a row from the root to its leaf; written apart from `probes`' intervals."""
    nodes = [0]
    while tree.left[nodes[-1]] >= 0:
        node = nodes[-1]
        value, threshold = row[tree.feature[node]], tree.threshold[node]
        if np.isnan(value):
            left = tree.missing_left[node]
        else:
            left = value <= threshold if tree.inclusive[node] else value < threshold
        nodes.append(int(tree.left[node] if left else tree.right[node]))
    return nodes


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("method", ["hist", "exact"])
def test_each_probe_reaches_its_split(method: str, inclusive: bool, X: Float32Array, train: Train) -> None:
    trees = read(train(max_depth=7, tree_method=method, min_child_weight=0)).trees
    if inclusive:
        for tree in trees:
            tree.inclusive[:] = tree.left >= 0
    found, reached, total = probes.split_probes(X, trees, NAMES)
    rows = probes.materialise(X, found)
    assert total == sum(len(tree.splits) for tree in trees) > 200
    standing: dict[str, set[tuple[int, int]]] = {}
    for probe, row in zip(found, rows, strict=True):
        match = re.search(r"^(.*) the split .* \(tree (\d+), node (\d+)\)$", probe.where)
        assert match is not None
        where, t, node = match[1], int(match[2]), int(match[3])
        tree = trees[t]
        assert node in path(tree, row)
        value, threshold = row[tree.feature[node]], tree.threshold[node]
        expected = {
            "on the threshold of": threshold,
            "one step below": np.nextafter(threshold, np.float32(-np.inf)),
            "one step above": np.nextafter(threshold, np.float32(np.inf)),
            "without a value at": np.float32(np.nan),
        }[where]
        np.testing.assert_array_equal(value, expected)
        assert probe.kind == ("missing" if np.isnan(value) else "threshold")
        unedited = [column for column in range(5) if column not in probe.edits]
        np.testing.assert_array_equal(row[unedited], X[probe.source][unedited])
        standing.setdefault(where, set()).add((t, node))
    assert len(set.union(*(standing[where] for where in standing if where != "without a value at"))) == reached
    assert len(standing["on the threshold of"]) >= 0.98 * total
    assert len(standing["without a value at"]) > 0.3 * total


def chain(*splits: tuple[float, bool, str]) -> Tree:
    """Returns a tree of splits on feature 0, each (threshold, missing_left, side that the next split is on)."""
    depth = len(splits)
    n = 2 * depth + 1
    left, right, parent = np.full(n, -1), np.full(n, -1), np.full(n, -1)
    node = 0
    threshold, missing = np.zeros(n, np.float32), np.zeros(n, bool)
    for i, (value, missing_left, side) in enumerate(splits):
        left[node], right[node] = 2 * i + 1, 2 * i + 2
        parent[[2 * i + 1, 2 * i + 2]] = node
        threshold[node], missing[node] = value, missing_left
        node = 2 * i + (1 if side == "left" else 2)
    return Tree(
        left,
        right,
        parent,
        np.zeros(n, np.int64),
        threshold,
        np.zeros(n, bool),
        missing,
        np.zeros((n, 1), np.float32),
        np.zeros(1, np.int64),
        np.ones(n),
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.float32),
    )


@pytest.mark.parametrize(
    ("tree", "kinds"),
    [
        # 3 <= x, then x < 3: only the value above and on 3 reach the second split, and NaN goes left at the first.
        (chain((3, True, "right"), (3, True, "left")), ["on", "one step above"]),
        # x < 3, then x < 3: only the value below reaches it, and NaN does.
        (chain((3, True, "left"), (3, False, "left")), ["one step below", "without"]),
        # x < 1 and 2 <= x: no number reaches the third split, and NaN does.
        (chain((1, True, "left"), (2, False, "right"), (5, True, "left")), ["without"]),
        # Likewise, and NaN does not.
        (chain((1, True, "left"), (2, True, "right"), (5, True, "left")), []),
        # At the end of float32, the value above is infinite and no row holds it.
        (chain((float(np.finfo(np.float32).max), False, "left")), ["on", "one step below", "without"]),
    ],
)
def test_splits_that_few_values_reach(tree: Tree, kinds: list[str]) -> None:
    last = int(tree.splits[-1])
    found, _, total = probes.split_probes(np.zeros((1, 1), np.float32), [tree], ["x"])
    at_last = [probe for probe in found if probe.where.endswith(f"node {last})")]
    assert [probe.where for probe in at_last if not any(probe.where.startswith(kind) for kind in kinds)] == []
    assert len(at_last) == len(kinds)
    assert total == len(tree.splits)


def test_missing_probes(X: Float32Array) -> None:
    found = probes.missing_probes(X, NAMES)
    rows = probes.materialise(X, found)
    assert np.isnan(rows[-1]).all()
    alone = {next(iter(probe.edits)) for probe in found[:-1]}
    assert alone == set(range(5))
    assert all(np.isnan(row[next(iter(probe.edits))]) for probe, row in zip(found, rows, strict=True))


def test_caps_draw_evenly(X: Float32Array, train: Train, monkeypatch: Any) -> None:
    for cap in ("MAX_CALLER_ROWS", "MAX_MISSING_ROWS", "MAX_SPLITS"):
        monkeypatch.setattr(probes, cap, 10)
    sources = [probe.source for probe in probes.caller_probes(X)]
    assert (len(sources), sources[0], sources[-1]) == (10, 0, len(X) - 1)
    assert np.ptp(np.diff(sources)) <= 1
    assert len(probes.missing_probes(X, NAMES)) == 5 * 2 + 1
    found, reached, total = probes.split_probes(X, read(train()).trees, NAMES)
    assert reached <= 10 < total
    assert len({probe.where.split("(tree")[1] for probe in found}) == 10


def test_materialise_leaves_the_callers_rows_alone(X: Float32Array) -> None:
    before = X.copy()
    probes.materialise(X, probes.missing_probes(X, NAMES))
    np.testing.assert_array_equal(X, before)
