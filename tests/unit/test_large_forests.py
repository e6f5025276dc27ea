"""Forests as large as are promised: a million leaves, ten thousand features, as many sets of categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xai_service import _treeshap

RNG = np.random.default_rng(7)


def complete(n_trees: int, depth: int, n_features: int) -> dict[str, Any]:
    """Complete trees, each node's children at 2 i + 1 and 2 i + 2."""
    splits, size = 2**depth - 1, 2 ** (depth + 1) - 1
    at, first = np.tile(np.arange(size), n_trees), np.repeat(np.arange(n_trees) * size, size)
    leaf = at >= splits
    cover = np.zeros((n_trees, size))
    cover[:, splits:] = RNG.integers(1, 50, (n_trees, size - splits))
    for split in reversed(range(splits)):
        cover[:, split] = cover[:, 2 * split + 1] + cover[:, 2 * split + 2]
    n = n_trees * size
    return {
        "n_features": n_features,
        "n_outputs": 1,
        "tree_begin": np.arange(n_trees + 1) * size,
        "kind": np.where(leaf, 0, 1).astype(np.uint8),
        "feature": RNG.integers(0, n_features, n),
        "threshold": RNG.normal(size=n),
        "nan_left": RNG.integers(0, 2, n).astype(np.uint8),
        "left": np.where(leaf, -1, first + 2 * at + 1),
        "right": np.where(leaf, -1, first + 2 * at + 2),
        "cover": cover.ravel(),
        "weight_begin": np.r_[0, np.cumsum(leaf)],
        "weight_output": np.zeros(leaf.sum(), np.int64),
        "weight": RNG.normal(size=leaf.sum()),
        "base": np.zeros(1),
    }


def assert_exact(forest: _treeshap.Forest, rows: np.ndarray) -> None:
    expected = _treeshap.PathDependentExplainer(forest, variant="scalar-f64").explain(rows)
    for variant in ("row-f32", "rows-f32"):
        phi = _treeshap.PathDependentExplainer(forest, variant=variant).explain(rows)
        np.testing.assert_allclose(phi, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=variant)


@pytest.mark.parametrize(("n_trees", "depth", "n_features"), [(1000, 10, 20), (1000, 10, 10_000), (16, 16, 50)])
def test_a_million_leaves(n_trees: int, depth: int, n_features: int) -> None:
    forest = _treeshap.Forest(**complete(n_trees, depth, n_features))
    assert forest.n_leaves >= 1_000_000
    assert_exact(forest, RNG.normal(size=(2, n_features)).astype(np.float32))


def test_thousands_of_sets_of_categories() -> None:
    arrays = complete(200, 6, 30)
    split = arrays["kind"] == 1
    arrays["feature"][split & (RNG.random(len(split)) < 0.5)] %= 3  # the categorical ones
    member = split & (arrays["feature"] < 3)
    arrays["kind"][member] = 3
    arrays["set_begin"] = np.r_[0, np.cumsum(20 * member)]
    arrays["set_value"] = RNG.integers(0, 100, arrays["set_begin"][-1]).astype(np.float32)
    forest = _treeshap.Forest(**arrays)
    assert member.sum() > 5_000
    rows = RNG.normal(size=(20, 30)).astype(np.float32)
    rows[:, :3] = RNG.integers(0, 120, (20, 3))
    rows[3] = np.nan
    assert_exact(forest, rows)
    walk, tables = (_treeshap.InterventionalPlan(forest, rows[:5], cap) for cap in (0, 1 << 28))
    expected = walk.explain(rows)
    np.testing.assert_allclose(tables.explain(rows), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
