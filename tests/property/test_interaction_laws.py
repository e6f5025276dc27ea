"""SHAP interaction values against their definition: brute force over subsets, and what rows and columns must add to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import forests, oracles
from tests.oracles import scale
from xai_service import _treeshap

N = 5
forest_strategy = st.lists(forests.trees(N, max_depth=4), min_size=1, max_size=4)


def interactions(trees, row, players=None):
    return _treeshap.InteractionsPlan(forests.forest(trees, len(row), players)).explain(row[None])[0, :, :, 0]


def brute_force(trees, row, players):
    """Half the Shapley interaction index off the diagonal, the rest of the attribution on it: (players, players)."""
    n = oracles.n_players(len(row), players)
    value = {
        frozenset(s): sum(oracles.expectation(tree, row, frozenset(s), players) for tree in trees)
        for size in range(n + 1)
        for s in itertools.combinations(range(n), size)
    }
    matrix = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        others = [f for f in range(n) if f not in {i, j}]
        for size in range(n - 1):
            weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
            for s in map(frozenset, itertools.combinations(others, size)):
                both, first, second = value[s | {i, j}], value[s | {i}], value[s | {j}]
                matrix[i, j] += weight * (both - first - second + value[s]) / 2
    return matrix + np.diag(oracles.brute_force(trees, row, players) - matrix.sum(axis=1))


@settings(max_examples=100, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N), players=forests.players(N))
def test_interactions_agree_with_brute_force(trees, row, players):
    got, expected = interactions(trees, row, players), brute_force(trees, row, players)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * scale(trees))


@settings(max_examples=100, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N))
def test_the_matrix_is_symmetric_and_its_rows_add_to_the_attributions(trees, row):
    matrix = interactions(trees, row)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(axis=1), oracles.reference(trees, row), rtol=0, atol=1e-9 * scale(trees))


@settings(max_examples=60, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N))
def test_features_that_share_no_path_do_not_interact(trees, row):
    together = {
        pair for tree in trees for _, path in oracles.leaf_paths(tree, row) for pair in itertools.permutations(path, 2)
    }
    matrix = interactions(trees, row)
    assert all(matrix[p] == 0 for p in itertools.permutations(range(N), 2) if p not in together)


@pytest.mark.parametrize("depth", [20, 35])
def test_deep_chains_add_to_the_attributions(depth):
    rng = np.random.default_rng(depth)
    trees = [forests.random_tree(rng, 50, depth, chain=True) for _ in range(3)]
    row = rng.normal(size=50).astype(np.float32)
    matrix = interactions(trees, row)
    np.testing.assert_allclose(matrix.sum(axis=1), oracles.reference(trees, row), rtol=0, atol=1e-9)


def test_more_features_than_a_matrix_may_have_are_refused():
    with pytest.raises(_treeshap.InvalidForest, match="interactions"):
        _treeshap.InteractionsPlan(forests.forest([("leaf", 1.0, 1.0)], 5000))
