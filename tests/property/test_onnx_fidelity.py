"""What the reader makes of an ONNX file is what ONNX Runtime computes from it, in every corner that it accepts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import forests, oracles
from xai_service.errors import ModelError
from xai_service.model.onnx_trees import parse_model, read_forest
from xai_service.model.session import OrtPredictor
from xai_service.treeshap import TreeExplainer

FLOAT = np.finfo(np.float32)
HALF = np.float32(0.5)
# Both zeros, the smallest and largest denormals, the edges of the range, and neighbours one ulp apart.
THRESHOLDS = [
    -np.inf,
    float(FLOAT.min),
    -1.5,
    -1e-45,
    -0.0,
    0.0,
    1e-45,
    float(np.nextafter(FLOAT.tiny, np.float32(0))),
    float(FLOAT.tiny),
    float(np.nextafter(HALF, np.float32(0))),
    0.5,
    float(np.nextafter(HALF, np.float32(1))),
    float(FLOAT.max),
    np.inf,
]
N = 2
ROWS = np.array(list(itertools.product([*THRESHOLDS, np.nan], repeat=N)), np.float32)  # each pair of values
MODES = ["BRANCH_LT", "BRANCH_LEQ", "BRANCH_GT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_NEQ"]

# Whole numbers, few and small enough that float32 adds them without rounding, in any order.
numbers = st.integers(-64, 64).map(float)


@st.composite
def ensembles(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a TreeEnsembleRegressor: odd ids, nodes in any order behind the root, weights in any order."""
    n_targets = draw(st.integers(1, 3))
    leaves = st.lists(
        st.tuples(st.integers(0, n_targets - 1), numbers),
        min_size=n_targets == 1,
        max_size=1 if n_targets == 1 else 4,
    )
    split = st.tuples(st.integers(0, N - 1), st.sampled_from(THRESHOLDS), st.sampled_from(MODES), st.booleans())
    trees = st.recursive(leaves, lambda child: st.tuples(split, child, child), max_leaves=8)
    tree_ids = st.integers(-(1 << 31), (1 << 31) - 1).filter(lambda one: one != -1)  # which is refused
    forest = draw(st.dictionaries(tree_ids, trees, min_size=1, max_size=4))
    total = sum(map(_size, forest.values()))
    nodes: list[dict[str, Any]] = []
    weights: list[tuple[int, int, int, float]] = []
    for tree_id, tree in forest.items():
        nodes += _nodes(draw, tree_id, tree, weights, total)
    weights = draw(st.permutations(weights))
    attributes: dict[str, Any] = {f"nodes_{key}": [node[key] for node in nodes] for key in nodes[0]}
    attributes |= {
        "n_targets": n_targets,
        "target_treeids": [w[0] for w in weights],
        "target_nodeids": [w[1] for w in weights],
        "target_ids": [w[2] for w in weights],
        "target_weights": [w[3] for w in weights],
        "post_transform": "NONE",
    }
    # ONNX Runtime leaves a base value out on rows that reach no weight of its target: such files are refused.
    if draw(st.booleans()) and any(_adds_everywhere(tree, n_targets) for tree in forest.values()):
        attributes["base_values"] = draw(st.lists(numbers, min_size=n_targets, max_size=n_targets))
    for optional in ("nodes_hitrates", "nodes_missing_value_tracks_true"):
        if draw(st.booleans()):
            del attributes[optional]
    return {name: value for name, value in attributes.items() if value != []}


def _nodes(draw: st.DrawFn, tree_id: int, tree: Any, weights: list[Any], total: int) -> list[dict[str, Any]]:
    ids = draw(st.permutations(range(total)))  # the tree takes the first few
    nodes: list[dict[str, Any]] = []

    def add(tree: Any) -> int:
        node_id = ids[len(nodes)]
        leaf = isinstance(tree, list)
        feature, threshold, mode, missing = (0, 0.0, "LEAF", False) if leaf else tree[0]
        node = {
            "treeids": tree_id,
            "nodeids": node_id,
            "featureids": feature,
            "values": threshold,
            "modes": mode,
            "missing_value_tracks_true": int(missing),
            "truenodeids": 0,
            "falsenodeids": 0,
            "hitrates": float(_size(tree) + 1),  # a leaf covers 2, a split its children's sum
        }
        nodes.append(node)
        if leaf:
            weights.extend((tree_id, node_id, target, weight) for target, weight in tree)
        else:
            node["truenodeids"], node["falsenodeids"] = add(tree[1]), add(tree[2])
        return node_id

    add(tree)
    return [nodes[0], *draw(st.permutations(nodes[1:]))]


def _adds_everywhere(tree: Any, n_targets: int) -> bool:
    if isinstance(tree, list):
        return {target for target, _ in tree} == set(range(n_targets))
    return _adds_everywhere(tree[1], n_targets) and _adds_everywhere(tree[2], n_targets)


def _size(tree: Any) -> int:
    return 1 if isinstance(tree, list) else 1 + _size(tree[1]) + _size(tree[2])


def serve(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": rows})[0]


@settings(max_examples=150, deadline=None)
@given(attributes=ensembles(), opset=st.sampled_from([1, 3]))
def test_the_forest_read_is_the_forest_served(attributes: dict[str, Any], opset: int) -> None:
    model = forests.onnx_model(attributes, N)
    model.opset_import[1].version = opset
    np.testing.assert_array_equal(read_forest(model).predict(ROWS), serve(model, ROWS).astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(attributes=ensembles().filter(lambda a: "nodes_hitrates" in a), seed=st.integers(0, 99))
def test_attributions_add_to_what_is_served(attributes: dict[str, Any], seed: int) -> None:
    model = forests.onnx_model(attributes, N)
    explainer = TreeExplainer(model)
    rows = np.random.default_rng(seed).choice(ROWS, 20)
    phi = explainer.shap_values(rows).reshape(len(rows), N, -1)
    # float32 lanes: 1e-6 of what the trees can add up to
    scale = max(1.0, np.abs(attributes.get("target_weights", [])).sum())
    margin = serve(model, rows)
    np.testing.assert_allclose(phi.sum(axis=1) + explainer.expected_value, margin, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_each_comparison_at_each_threshold(mode: str, missing: int, threshold: float) -> None:
    attributes = forests.ensemble_attributes(
        [("split", 0, threshold, "<", False, ("leaf", 1.0, 1.0), ("leaf", 2.0, 1.0))], N
    )
    attributes |= {"nodes_modes": [mode, "LEAF", "LEAF"], "nodes_missing_value_tracks_true": [missing, 0, 0]}
    model = forests.onnx_model(attributes, N)
    np.testing.assert_array_equal(read_forest(model).predict(ROWS), serve(model, ROWS))


def chain(categories: list[float], missing: list[int]) -> dict[str, Any]:
    """As converters write sets: feature 1 at the root; below it a chain on feature 0 that shares its true child."""
    n, end = (
        len(categories),
        1 + len(categories),
    )  # nodes: root, chain, its two children, the root's other
    attributes = forests.ensemble_attributes([("split", 1, 0.5, "<", False, ("leaf", 7, 4), ("leaf", 2, 9))], N)
    covers = [9.0, *(float(i) for i in range(n, 1, -1))]  # of the chain only its first counts
    return attributes | {
        "nodes_treeids": [0] * (end + 3),
        "nodes_nodeids": list(range(end + 3)),
        "nodes_featureids": [1] + [0] * (end + 2),
        "nodes_modes": ["BRANCH_LT", *["BRANCH_EQ"] * n, "LEAF", "LEAF", "LEAF"],
        "nodes_values": [0.5, *categories, 0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, *[end] * n, 0, 0, 0],
        "nodes_falsenodeids": [end + 2, *range(2, end), end + 1, 0, 0, 0],
        "nodes_missing_value_tracks_true": [0, *missing, 0, 0, 0],
        "nodes_hitrates": [18.0, *covers, 7.0, 2.0, 9.0],
        "target_treeids": [0] * 3,
        "target_nodeids": [end, end + 1, end + 2],
        "target_ids": [0] * 3,
        "target_weights": [3.0, -5.0, 11.0],
    }


@settings(max_examples=150, deadline=None)
@given(
    categories=st.lists(
        st.one_of(st.integers(-3, 70).map(float), st.sampled_from(THRESHOLDS)), min_size=1, max_size=40
    ),
    nan_left=st.booleans(),
)
def test_a_chain_of_categories_is_one_split(categories: list[float], nan_left: bool) -> None:
    model = forests.onnx_model(chain(categories, [int(nan_left)] * len(categories)), N)
    forest = read_forest(model)
    assert (forest.n_nodes, forest.max_depth) == (5, 2)
    first = np.array([*THRESHOLDS, np.nan, 1e9, -1e9, *range(-4, 72), *(i + 0.5 for i in range(-4, 72))], np.float32)
    rows = np.stack([first, np.resize(np.array([0, 1, np.nan], np.float32), len(first))], axis=1)
    np.testing.assert_array_equal(forest.predict(rows), serve(model, rows))
    # What it means: Shapley's values of a split on the whole set.
    values = tuple(np.float32(categories).tolist())
    below = ("split", 0, values, "in", nan_left, ("leaf", 3.0, 7.0), ("leaf", -5.0, 2.0))
    tree = ("split", 1, 0.5, "<", False, below, ("leaf", 11.0, 9.0))
    phi = TreeExplainer(model).shap_values(rows)
    for row, got in zip(rows[::5], phi[::5], strict=True):
        np.testing.assert_allclose(got, oracles.brute_force([tree], row), rtol=0, atol=1e-5)


TREE = forests.SMALL_TREE
VALID = forests.onnx_model(forests.ensemble_attributes([TREE, TREE], N), N).SerializeToString()


def assert_refused_or_served_alike(data: bytes) -> None:
    try:
        parsed = parse_model(data)
        forest = read_forest(parsed)
        predictor = OrtPredictor(parsed, data, ())
    except ModelError:
        return
    rows = np.zeros((len(ROWS) if forest.n_features < 1000 else 3, forest.n_features), np.float32)
    rows[:, :N] = ROWS[: len(rows), : forest.n_features]
    with np.errstate(over="ignore"):
        ours = forest.predict(rows).astype(np.float32)
    weights = np.concatenate(
        [a.floats for a in parsed.graph.node[0].attribute if a.name in ("target_weights", "base_values")]
    )
    np.testing.assert_allclose(predictor.predict(rows).margin, ours, rtol=0, atol=1e-6 * float(np.abs(weights).sum()))


def test_truncated_files() -> None:
    for end in range(len(VALID)):
        assert_refused_or_served_alike(VALID[:end])


@settings(max_examples=800, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_changed_bytes(flips: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for place, change in flips:
        data[place] ^= change
    assert_refused_or_served_alike(bytes(data))


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(0, len(VALID)),
    end=st.integers(0, len(VALID)),
    place=st.integers(0, len(VALID)),
    noise=st.binary(max_size=16),
)
def test_moved_bytes(start: int, end: int, place: int, noise: bytes) -> None:
    assert_refused_or_served_alike(VALID[:place] + noise + VALID[start:end] + VALID[place:])
