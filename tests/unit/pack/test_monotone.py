"""What is called proven holds on every pair of rows that differ in that one feature."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from xai_service.pack.monotone import proven_directions
from xai_service.pack.xgboost import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array


def proven(booster: xgboost.Booster) -> tuple[list[bool], list[bool]]:
    native = read(booster)
    rises, falls = proven_directions(native.trees, native.n_features)
    return rises.tolist(), falls.tolist()


@pytest.mark.parametrize(
    "parameters",
    [{}, {"tree_method": "exact"}, {"booster": "dart", "rate_drop": 0.4}, {"max_depth": 7}, {"num_parallel_tree": 2}],
    ids=lambda parameters: next(iter(parameters), "default"),
)
def test_what_xgboost_constrains_is_proven_and_holds(
    parameters: Any, X: Float32Array, train: Callable[..., xgboost.Booster]
) -> None:
    booster = train(20, monotone_constraints=(1, -1, 0, 0, 1), **parameters)
    rises, falls = proven(booster)
    assert rises == [True, False, False, False, True]
    assert falls == [False, True, False, False, False]
    for feature, sign in ((0, 1), (1, -1), (4, 1)):
        steps = np.repeat(X[:100, None], 41, axis=1)
        steps[:, :, feature] = np.linspace(-4, 4, 41)
        margin = booster.predict(xgboost.DMatrix(steps.reshape(-1, X.shape[1])), output_margin=True).reshape(100, 41)
        assert (sign * np.diff(margin, axis=1) >= 0).all()


def test_what_is_not_so_is_not_proven(train: Callable[..., xgboost.Booster]) -> None:
    rises, falls = proven(train(20))
    assert not any(rises)
    assert not any(falls)


def test_one_leaf_in_the_wrong_order_is_enough(X: Float32Array) -> None:
    """A step up, then down again, by less than the step: only one pair of leaves tells."""
    x = np.sort(X[:, 4])[:, None]
    target = np.select([x[:, 0] < 1, x[:, 0] < 3], [0.0, 2.0], 1.9)
    parameters = {"objective": "reg:squarederror", "max_depth": 3, "lambda": 0, "min_child_weight": 0, "eta": 1}
    hump = xgboost.train(parameters, xgboost.DMatrix(x, target), 1)
    assert proven(hump) == ([False], [False])
    step = xgboost.train(parameters, xgboost.DMatrix(x, np.where(x[:, 0] < 1, 0.0, 2.0)), 1)
    assert proven(step) == ([True], [False])


@given(leaves=st.lists(st.integers(0, 3), min_size=8, max_size=8), features=st.lists(st.integers(0, 1), min_size=7))
def test_every_pair_of_leaves_is_compared(leaves: list[int], features: list[int]) -> None:
    """A full tree of depth 3 against the definition: at each split on it, every leaf here with every leaf there."""
    tree = SimpleNamespace(
        left=np.array([1, 3, 5, 7, 9, 11, 13, *[-1] * 8]),
        right=np.array([2, 4, 6, 8, 10, 12, 14, *[-1] * 8]),
        feature=np.array([*features[:7], *[0] * 8]),
        leaf=np.array([0] * 7 + leaves, np.float32)[:, None],
        set_sizes=np.zeros(15, np.int64),
    )

    def below(node: int) -> list[float]:
        if tree.left[node] < 0:
            return [float(tree.leaf[node, 0])]
        return below(tree.left[node]) + below(tree.right[node])

    rises, falls = proven_directions([tree], 2)  # type: ignore[list-item]
    for feature in (0, 1):
        splits = [node for node in range(7) if tree.feature[node] == feature]
        pairs = [(a, b) for node in splits for a in below(tree.left[node]) for b in below(tree.right[node])]
        assert rises[feature] == all(a <= b for a, b in pairs)
        assert falls[feature] == all(a >= b for a, b in pairs)


def test_several_outputs_and_categories() -> None:
    """Of several outputs, one that falls is enough; a set of categories has no order, however the leaves stand."""
    shape = {"left": [1, -1, -1], "right": [2, -1, -1], "feature": [0, 0, 0], "set_sizes": [0, 0, 0]}
    tree = SimpleNamespace(**{key: np.array(value) for key, value in shape.items()})
    for leaves, expected in (
        ([[0, 0], [1, 2], [3, 4]], (True, False)),
        ([[0, 0], [1, 4], [3, 2]], (False, False)),
        ([[0, 0], [3, 4], [3, 2]], (False, True)),
    ):
        tree.leaf = np.array(leaves, np.float32)
        rises, falls = proven_directions([tree], 1)  # type: ignore[list-item]
        assert (rises[0], falls[0]) == expected
    tree.leaf, tree.set_sizes = np.array([[0], [1], [2]], np.float32), np.array([2, 0, 0])
    rises, falls = proven_directions([tree], 1)  # type: ignore[list-item]
    assert not rises[0]
    assert not falls[0]


def test_an_unused_feature_does_neither(X: Float32Array) -> None:
    padded = np.column_stack((X[:, 4], np.zeros(len(X), np.float32)))
    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(padded, X[:, 4]), 2)
    rises, falls = proven(booster)
    assert (rises[1], falls[1]) == (True, True)
    assert (rises[0], falls[0]) == (True, False)
