"""Random forests for laws: hypothesis strategies, and the same trees as the kernel's arrays and as an ONNX file."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.oracles import cover
from xai_service import _treeshap

# Few distinct values, so that rows stand on thresholds and features repeat; both zeros, and what is hardest to compare.
VALUES = (
    -np.inf,
    -1.5,
    -0.0,
    0.0,
    float(np.float32(1e-40)),
    0.5,
    float(np.nextafter(np.float32(0.5), np.float32(1))),
    2.0,
    np.inf,
)
# Thresholds are float64: some stand between two float32.
THRESHOLDS = (*(v for v in VALUES if np.isfinite(v)), 0.5 - 1e-12, 0.5 + 1e-12, -1e-50, 1e39)


# Two splits and three leaves, on features 0 and 1.
SMALL_TREE = (
    "split",
    0,
    0.5,
    "<",
    True,
    ("leaf", 1.0, 2.0),
    ("split", 1, -1.5, "<=", False, ("leaf", 4.0, 3.0), ("leaf", -2.0, 1.0)),
)


def trees(n_features: int, max_depth: int) -> st.SearchStrategy:
    """One tree. Covers may be zero below the root's children, leaves may be the whole tree, features repeat."""
    leaf = st.tuples(
        st.just("leaf"),
        st.floats(-10, 10, width=32),
        st.sampled_from([0.0, 1.0, 2.0, 3.5, 100.0]),
    )

    def split(child: st.SearchStrategy) -> st.SearchStrategy:
        return st.tuples(condition, st.booleans(), child, child).map(lambda s: ("split", *s[0], *s[1:]))

    feature = st.integers(0, n_features - 1)
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=4).map(tuple)
    condition = st.one_of(
        st.tuples(feature, st.sampled_from(THRESHOLDS), st.sampled_from(["<", "<="])),
        st.tuples(feature, values, st.just("in")),
    )
    strategy = leaf
    for _ in range(max_depth):
        strategy = st.one_of(leaf, split(strategy), split(strategy))
    return strategy.filter(lambda tree: tree[0] == "leaf" or cover(tree) > 0)


def players(n_features: int) -> st.SearchStrategy:
    """Which player each feature is: its own, or one of a few."""
    return st.one_of(st.none(), st.lists(st.integers(0, n_features - 1), min_size=n_features, max_size=n_features))


def rows(n_features: int) -> st.SearchStrategy:
    return st.lists(st.sampled_from((*VALUES, np.nan)), min_size=n_features, max_size=n_features).map(
        lambda values: np.array(values, np.float32)
    )


def random_tree(rng: np.random.Generator, n_features: int, depth: int, *, chain: bool = False):
    """A tree of exactly this depth: full when ``chain`` is false, else one split a level."""
    if depth == 0:
        return ("leaf", float(rng.normal()), float(rng.integers(1, 50)))
    below = random_tree(rng, n_features, depth - 1, chain=chain)
    beside = random_tree(rng, n_features, 0 if chain else depth - 1, chain=chain)
    children = (below, beside) if rng.random() < 0.5 else (beside, below)
    op = "<" if rng.random() < 0.5 else "<="
    return (
        "split",
        int(rng.integers(n_features)),
        float(np.float32(rng.normal())),
        op,
        bool(rng.random() < 0.5),
        *children,
    )


def arrays(trees, n_features: int, players=None) -> dict:
    """What `_treeshap.Forest` takes."""
    names = ("kind", "feature", "threshold", "nan_left", "left", "right", "cover", "weights", "set")
    out = {name: [] for name in names}
    begin = [0]

    def add(tree) -> int:
        i = len(out["kind"])
        leaf = tree[0] == "leaf"
        has_set = not leaf and tree[3] == "in"
        out["kind"].append(0 if leaf else {"<": 1, "<=": 2, "in": 3}[tree[3]])
        out["feature"].append(0 if leaf else tree[1])
        out["threshold"].append(0.0 if leaf or has_set else tree[2])
        out["set"].append(tree[2] if has_set else ())
        out["nan_left"].append(0 if leaf else int(tree[4]))
        out["cover"].append(cover(tree))
        out["weights"].append([tree[1]] if leaf else [])
        out["left"].append(-1)
        out["right"].append(-1)
        if not leaf:
            out["left"][i] = add(tree[5])
            out["right"][i] = add(tree[6])
        return i

    for tree in trees:
        add(tree)
        begin.append(len(out["kind"]))
    weights = [w for ws in out["weights"] for w in ws]
    return {
        "n_features": n_features,
        "n_outputs": 1,
        "tree_begin": np.array(begin, np.int64),
        "kind": np.array(out["kind"], np.uint8),
        "feature": np.array(out["feature"], np.int64),
        "threshold": np.array(out["threshold"], np.float64),
        "nan_left": np.array(out["nan_left"], np.uint8),
        "left": np.array(out["left"], np.int64),
        "right": np.array(out["right"], np.int64),
        "cover": np.array(out["cover"], np.float64),
        "weight_begin": np.cumsum([0] + [len(ws) for ws in out["weights"]]).astype(np.int64),
        "weight_output": np.zeros(len(weights), np.int64),
        "weight": np.array(weights, np.float64),
        "base": np.zeros(1),
        "set_begin": np.cumsum([0] + [len(values) for values in out["set"]]).astype(np.int64),
        "set_value": np.array([value for values in out["set"] for value in values], np.float32),
        "player": np.array([] if players is None else players, np.int64),
    }


def forest(trees, n_features: int, players=None) -> _treeshap.Forest:
    return _treeshap.Forest(**arrays(trees, n_features, players))


def ensemble_attributes(trees, n_features: int) -> dict:
    """The same trees as attributes of ONNX's TreeEnsembleRegressor; ``nodes_hitrates`` hold the covers."""
    a = arrays(trees, n_features)
    n = len(a["kind"])
    run = np.searchsorted(a["tree_begin"], np.arange(n), side="right") - 1
    first = a["tree_begin"][run]
    leaf = a["kind"] == 0
    owners = np.flatnonzero(leaf)
    return {
        "n_targets": 1,
        "nodes_treeids": run.tolist(),
        "nodes_nodeids": (np.arange(n) - first).tolist(),
        "nodes_featureids": a["feature"].tolist(),
        "nodes_modes": [("LEAF", "BRANCH_LT", "BRANCH_LEQ")[k] for k in a["kind"]],
        "nodes_values": a["threshold"].tolist(),
        "nodes_truenodeids": np.where(leaf, 0, a["left"] - first).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, a["right"] - first).tolist(),
        "nodes_missing_value_tracks_true": a["nan_left"].astype(int).tolist(),
        "nodes_hitrates": a["cover"].tolist(),
        "target_treeids": run[owners].tolist(),
        "target_nodeids": (owners - first[owners]).tolist(),
        "target_ids": [0] * len(owners),
        "target_weights": a["weight"].tolist(),
        "base_values": [0.0],
        "post_transform": "NONE",
    }


def onnx_model(attributes: dict, n_features: int) -> onnx.ModelProto:
    node = helper.make_node("TreeEnsembleRegressor", ["input"], ["margin"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node],
        "forest",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info("margin", TensorProto.FLOAT, [None, attributes["n_targets"]])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
