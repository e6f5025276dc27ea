"""The native forest takes arrays from anyone and looks at each entry once: nothing wrong gets through to a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import forests, oracles
from tests.gil import seen_at_work
from xai_service import _treeshap

if TYPE_CHECKING:
    from collections.abc import Callable

N = 3
BELOW = ("split", 1, -1.5, "<=", False, ("leaf", 4.0, 3.0), ("leaf", -2.0, 1.0))
TREE = ("split", 0, 0.5, "<", True, ("leaf", 1.0, 2.0), BELOW)
GOOD = forests.arrays([TREE, TREE], N)
HUGE = (1 << 63) - 1


def build(**changes: Any) -> _treeshap.Forest:
    return _treeshap.Forest(**{**GOOD, **changes})


# What makes the first tree's node 2 ask whether its feature is one of three values.
SETS = {
    "kind": np.where(np.arange(10) == 2, 3, GOOD["kind"]).astype(np.uint8),
    "set_begin": np.r_[np.zeros(3), np.full(8, 3)].astype(np.int64),
    "set_value": np.array([1, 2, 7], np.float32),
}
GROUPED = {**GOOD, **SETS, "player": np.array([0, 1, 0])}


def at(name: str, index: int, value: Any) -> dict[str, Any]:
    array = GOOD[name].copy()
    array[index] = value
    return {name: array}


@settings(deadline=None)
@given(
    trees=st.lists(forests.trees(N, max_depth=4), min_size=1, max_size=5), rows=st.lists(forests.rows(N), max_size=6)
)
def test_predict_is_the_sum_of_the_leaves_reached(trees: list[Any], rows: list[Any]) -> None:
    got = forests.forest(trees, N).predict(np.array(rows, np.float32).reshape(-1, N))
    assert got.shape == (len(rows), 1)
    np.testing.assert_allclose(got[:, 0], [oracles.margin(trees, row) for row in rows], rtol=0, atol=1e-9)


def test_what_a_forest_knows_of_itself() -> None:
    forest = build()
    assert (forest.n_features, forest.n_outputs, forest.n_trees) == (N, 1, 2)
    assert (forest.n_nodes, forest.n_leaves, forest.max_depth, forest.has_covers) == (10, 6, 2, True)
    lone = forests.forest([("leaf", 2.5, 0.0)], N)
    assert (lone.n_nodes, lone.n_leaves, lone.max_depth) == (1, 1, 0)
    assert lone.predict(np.zeros((1, N), np.float32)) == 2.5


def test_a_forest_keeps_nothing_of_its_arrays() -> None:
    arrays = {name: np.copy(value) if isinstance(value, np.ndarray) else value for name, value in GOOD.items()}
    forest = _treeshap.Forest(**arrays)
    rows = np.array([[0, 0, 0], [1, -2, 0]], np.float32)
    before = forest.predict(rows)
    for value in arrays.values():
        if isinstance(value, np.ndarray):
            value[:] = 77
    np.testing.assert_array_equal(forest.predict(rows), before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_features": 0}, "number of features is 0, must be from 1 to 1048576"),
        ({"n_features": -HUGE}, "number of features"),
        ({"n_outputs": 0}, "number of outputs is 0"),
        ({"n_outputs": 1 << 17}, "number of outputs is 131072, must be from 1 to 65536"),
        ({"n_features": 1 << 20, "n_outputs": 1 << 16}, "features times outputs is 68719476736"),
        ({"n_outputs": 2}, "base has 1 entries where 2 are due"),
        ({"kind": GOOD["kind"][:0]}, "number of nodes is 0"),
        ({"kind": GOOD["kind"][:-1]}, "feature has 10 entries where 9 are due"),
        *(({name: GOOD[name][:-1]}, f"{name} has 9 entries where 10 are due")
          for name in ("feature", "threshold", "nan_left", "left", "right", "cover")),
        ({"weight_begin": GOOD["weight_begin"][:-1]}, "weight_begin has 10 entries where 11 are due"),
        ({"weight_output": GOOD["weight_output"][:-1]}, "weight_output has 5 entries where 6 are due"),
        ({"weight": GOOD["weight"][:-1]}, "weight_begin must run from 0 to 5"),
        ({"tree_begin": np.array([0])}, "at least one tree"),
        ({"tree_begin": np.array([], np.int64)}, "at least one tree"),
        ({"tree_begin": np.array([0, 5, 5, 10])}, "tree 1 has no node"),
        ({"tree_begin": np.array([0, 7, 3, 10])}, "tree_begin must not fall"),
        ({"tree_begin": np.array([1, 5, 10])}, "tree_begin must run from 0 to 10"),
        ({"tree_begin": np.array([0, 5, HUGE])}, "tree_begin must run from 0 to 10"),
        ({"tree_begin": np.array([0, -HUGE, 10])}, "tree_begin must not fall"),
        (at("weight_begin", 3, HUGE), "weight_begin must not fall"),
        (at("weight_begin", 0, -1), "weight_begin must run from 0"),
        (at("kind", 3, 4), "tree 0, node 3: kind 4 is not known"),
        (at("kind", 2, 3), "tree 0, node 2: its set is empty"),
        ({**SETS, "set_begin": SETS["set_begin"][:-1]}, "set_begin has 10 entries where 11 are due"),
        ({**SETS, "set_value": SETS["set_value"][:-1]}, "set_begin must run from 0 to 2"),
        ({**SETS, "set_value": np.array([1, np.nan, 2], np.float32)}, "a set holds NaN"),
        ({**SETS, "kind": GOOD["kind"]}, "tree 0, node 2: has a set, but compares with a threshold"),
        ({"player": np.array([0, 1])}, "player has 2 entries where 3 are due"),
        ({"player": np.array([0, 3, 1])}, "a player is 3, must be from 0 to 2"),
        ({"player": np.array([0, -HUGE, 1])}, "a player is -9223372036854775807"),
        (at("feature", 5, N), "tree 1, node 0: splits on feature 3 of 3"),
        (at("feature", 5, -1), "splits on feature -1"),
        (at("feature", 5, -HUGE), "splits on feature -9223372036854775807"),
        (at("threshold", 2, np.nan), "tree 0, node 2: its threshold is NaN"),
        (at("cover", 9, np.nan), "tree 1, node 4: its cover is nan"),
        (at("cover", 9, -1e-300), "its cover is -0.000000"),
        (at("weight", 0, np.inf), "tree 0, node 1: its weight is not finite"),
        (at("weight_output", 3, 1), "tree 1, node 1: adds to output 1 of 1"),
        (at("weight_output", 3, -HUGE), "adds to output -9223372036854775807"),
        ({"base": np.array([np.nan])}, "a base value is not finite"),
        (at("left", 0, 0), "child is not a node of the tree below its root"),
        (at("left", 2, 0), "child is not a node of the tree below its root"),
        (at("left", 0, 6), "child is not a node of the tree below its root"),
        (at("right", 5, 1), "child is not a node of the tree below its root"),
        (at("right", 5, 10), "child is not a node of the tree below its root"),
        (at("right", 0, HUGE), "child is not a node of the tree below its root"),
        (at("right", 0, -HUGE), "child is not a node of the tree below its root"),
        (at("left", 0, 2), "both its children are one node"),
        (at("left", 2, 2), "child of two nodes|cannot be reached"),
        (at("left", 2, 1), "tree 0, node 1: is the child of two nodes"),
        (at("right", 0, 3), "tree 0 has 2 nodes that cannot be reached|child of two nodes"),
        (at("weight_begin", 1, 1), "tree 0, node 0: an inner node carries a leaf weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_wrong_entry_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(_treeshap.InvalidForest, match=says):
        build(**changes)


@settings(max_examples=600, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(sorted(name for name in GROUPED if isinstance(GROUPED[name], np.ndarray))),
            st.integers(0, 10),
            st.one_of(st.integers(-2, 11), st.sampled_from([HUGE, -HUGE - 1, 1 << 32, (1 << 32) - 1])),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_numbers_are_refused_or_harmless(changes: list[tuple[str, int, int]]) -> None:
    arrays = dict(GROUPED)
    for name, index, value in changes:
        array = arrays[name].copy()
        array[index % len(array)] = np.array(value).astype(array.dtype)
        arrays[name] = array
    try:
        forest = _treeshap.Forest(**arrays)
        kernels = [_treeshap.PathDependentExplainer(forest, variant=variant) for variant in ("scalar-f64", "rows-f32")]
    except (_treeshap.InvalidForest, _treeshap.MissingCovers):
        return
    rows = np.array([[0, 0, 0], [np.nan] * 3, [np.inf, -2, 1]], np.float32)
    margin = forest.predict(rows)
    scale = 1 + np.abs(arrays["weight"]).sum() + np.abs(arrays["base"]).sum()
    for kernel, tolerance in zip(kernels, (1e-12, 1e-6), strict=True):
        total = kernel.base_values + kernel.explain(rows).sum(axis=1)
        np.testing.assert_allclose(total, margin, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", GOOD["kind"].astype(np.int64)),
        ("feature", GOOD["feature"].astype(np.int32)),
        ("feature", GOOD["feature"].astype(np.float64)),
        ("threshold", GOOD["threshold"].astype(np.float32)),
        ("set_value", np.zeros(1)),
        ("player", np.zeros(3, np.int32)),
        ("cover", GOOD["cover"].astype(np.float32)),
        ("cover", None),
        ("weight", GOOD["weight"].tolist()),
        ("left", np.repeat(GOOD["left"], 2)[::2]),
        ("n_features", 1 << 70),
        ("n_features", 3.0),
        ("n_features", None),
    ],
)
def test_arguments_of_other_types(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=r"incompatible (constructor|function) arguments"):
        build(**{name: value})


def test_arrays_of_other_shapes() -> None:
    with pytest.raises(ValueError, match="kind must have one dimension"):
        build(kind=GOOD["kind"].reshape(2, 5))
    with pytest.raises(TypeError):
        _treeshap.Forest(*GOOD.values())


ROWS = np.zeros((4, N), np.float32)


@pytest.mark.parametrize("function", ["predict", "explain"])
def test_rows_of_other_types_and_shapes(function: str) -> None:
    forest = build()
    call: Callable[[Any], Any] = (
        forest.predict if function == "predict" else _treeshap.PathDependentExplainer(forest).explain
    )
    for rows in (ROWS[:, :2].copy(), ROWS[0], ROWS[None], np.zeros((0, N + 1), np.float32), np.array(1, np.float32)):
        with pytest.raises(ValueError, match=r"rows must be float32 \(n, 3\)"):
            call(rows)
    unaligned = np.frombuffer(b"\0" * (N * 4 + 1), np.float32, count=N, offset=1).reshape(1, N)
    with pytest.raises(ValueError, match="rows must be aligned"):
        call(unaligned)
    swapped = ROWS.astype(ROWS.dtype.newbyteorder("S"))
    for rows in (ROWS.astype(np.float64), ROWS.astype(np.float16), np.asfortranarray(ROWS), ROWS[::2], swapped):
        with pytest.raises(TypeError, match=r"must be float32"):
            call(rows)
    for rows in (ROWS.tolist(), None, "rows", b"rows"):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(rows)
    empty = call(ROWS[:0])
    assert empty.shape[:1] == (0,)
    locked = ROWS.copy()
    locked.flags.writeable = False
    call(locked)


def test_long_work_drops_the_gil() -> None:
    rng = np.random.default_rng(0)
    arrays = forests.arrays([forests.random_tree(rng, N, 9) for _ in range(10)], N)
    forest = _treeshap.Forest(**arrays)
    explainer = _treeshap.PathDependentExplainer(forest)
    many, few = rng.normal(size=(5_000, N)).astype(np.float32), rng.normal(size=(64, N)).astype(np.float32)
    assert seen_at_work(lambda: _treeshap.Forest(**arrays))
    assert seen_at_work(lambda: _treeshap.PathDependentExplainer(forest))
    assert seen_at_work(lambda: forest.predict(many))
    assert seen_at_work(lambda: explainer.explain(few))
    assert not seen_at_work(lambda: forest.n_nodes)  # the method can tell
