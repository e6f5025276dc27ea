"""Interventional SHAP against its definition: brute force over subsets and background rows, and the game's own laws."""

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
TABLES, NO_TABLES = 1 << 28, 0
forest_strategy = st.lists(forests.trees(N, max_depth=4), min_size=1, max_size=4)
background_strategy = st.lists(forests.rows(N), min_size=1, max_size=8).map(np.array)


def tolerance(trees, cap) -> float:
    """Tables hold float32, the walk float64."""
    return (1e-9 if cap == NO_TABLES else 1e-6) * scale(trees)


def brute_force(trees, row, background, players):
    """Shapley's formula, v(S) the mean margin of the background with the row's values on S: (players,)."""

    def value(subset):
        columns = [f for f in range(len(row)) if oracles.player_of(f, players) in subset]
        mixed = background.copy()
        mixed[:, columns] = row[columns]
        return float(np.mean([oracles.margin(trees, b) for b in mixed]))

    return oracles.shapley(oracles.n_players(len(row), players), value)


def plan_of(trees, background, cap, isa="", players=None):
    forest = forests.forest(trees, background.shape[1], players)
    return _treeshap.InterventionalPlan(forest, background, cap, isa=isa)


@settings(max_examples=150, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N), background=background_strategy, players=forests.players(N))
def test_both_forms_agree_with_brute_force(trees, row, background, players):
    expected = brute_force(trees, row, background, players)
    base = np.mean([oracles.margin(trees, b) for b in background])
    for cap, isa in itertools.product((TABLES, NO_TABLES), _treeshap.supported_isas()):
        plan = plan_of(trees, background, cap, isa, players)
        np.testing.assert_allclose(plan.explain(row[None])[0, :, 0], expected, rtol=0, atol=tolerance(trees, cap))
        assert plan.base_values[0] == pytest.approx(base, abs=1e-9 * scale(trees))


@settings(max_examples=100, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N), background=background_strategy)
def test_attributions_add_to_the_margin(trees, row, background):
    for cap in (TABLES, NO_TABLES):
        plan = plan_of(trees, background, cap)
        total = plan.base_values[0] + plan.explain(row[None]).sum()
        assert total == pytest.approx(oracles.margin(trees, row), abs=tolerance(trees, cap))


@settings(max_examples=60, deadline=None)
@given(trees=forest_strategy, background=background_strategy)
def test_a_row_that_is_the_whole_background_gets_nothing(trees, background):
    row = background[:1]
    for cap in (TABLES, NO_TABLES):
        plan = plan_of(trees, np.repeat(row, len(background), axis=0), cap)
        np.testing.assert_array_equal(plan.explain(row), np.zeros((1, N, 1)))


@settings(max_examples=60, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N), background=background_strategy)
def test_attributions_are_the_mean_over_single_background_rows(trees, row, background):
    for cap in (TABLES, NO_TABLES):
        together = plan_of(trees, background, cap).explain(row[None])
        alone = [plan_of(trees, b[None], cap).explain(row[None]) for b in background]
        np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=0, atol=tolerance(trees, cap))


@settings(max_examples=40, deadline=None)
@given(trees=forest_strategy, background=background_strategy, data=st.data())
def test_a_rows_bits_do_not_depend_on_its_neighbours(trees, background, data):
    # Enough rows for the many-rows form of the tables.
    rows = np.array(data.draw(st.lists(forests.rows(N), min_size=3, max_size=6)))
    many = np.tile(rows, (12, 1))
    for cap in (TABLES, NO_TABLES):
        plan = plan_of(trees, background, cap)
        together = plan.explain(many)
        for i in range(len(many)):
            np.testing.assert_array_equal(plan.explain(many[i : i + 1])[0], together[i])


@pytest.mark.parametrize("depth", [1, 12, 30])
@pytest.mark.parametrize("n_features", [2, 40])
def test_deep_chains_agree_with_pairs_of_rows(depth, n_features):
    rng = np.random.default_rng(depth * 100 + n_features)
    trees = [forests.random_tree(rng, n_features, depth, chain=True) for _ in range(3)]
    background = rng.normal(size=(6, n_features)).astype(np.float32)
    background[rng.random(background.shape) < 0.1] = np.nan
    rows = rng.normal(size=(2, n_features)).astype(np.float32)
    expected = np.array([np.mean([pair(trees, row, b) for b in background], axis=0) for row in rows])
    for cap in (TABLES, NO_TABLES):
        phi = plan_of(trees, background, cap).explain(rows)[:, :, 0]
        np.testing.assert_allclose(phi, expected, rtol=0, atol=tolerance(trees, cap))


def pair(trees, row, other):
    """Leaf by leaf for one background row: the row's own features share, the other's pay."""
    phi = np.zeros(len(row))
    for tree in trees:
        paths = zip(oracles.leaf_paths(tree, row), oracles.leaf_paths(tree, other), strict=True)
        for (value, mine), (_, theirs) in paths:
            along = {f: (mine[f][1], theirs[f][1]) for f in mine}
            if not all(o or a for o, a in along.values()):
                continue
            p = sum(o and not a for o, a in along.values())
            n = sum(a and not o for o, a in along.values())
            for feature, (o, a) in along.items():
                if o and not a:
                    phi[feature] += value / (p * math.comb(p + n, p))
                elif a and not o:
                    phi[feature] -= value / (n * math.comb(p + n, n))
    return phi


def test_many_features_and_thresholds_need_several_codings():
    rng = np.random.default_rng(5)
    trees = [forests.random_tree(rng, 90, 4) for _ in range(120)]
    trees += [("split", 0, float(t), "<", False, ("leaf", 1.0, 1.0), ("leaf", -1.0, 1.0)) for t in rng.normal(size=700)]
    background, rows = (rng.normal(size=(n, 90)).astype(np.float32) for n in (7, 40))
    tables, walk = (plan_of(trees, background, cap).explain(rows) for cap in (TABLES, NO_TABLES))
    np.testing.assert_allclose(tables, walk, rtol=0, atol=1e-6 * np.abs(walk).max())


@pytest.mark.parametrize("n_background", [0, 10_001])
def test_backgrounds_of_hostile_sizes_are_refused(n_background):
    with pytest.raises(ValueError, match="background"):
        plan_of([("leaf", 1.0, 1.0)], np.zeros((n_background, N), np.float32), TABLES)
