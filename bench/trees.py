"""A model's trees as plain arrays, read through treelite's field accessors, and the same trees as an ONNX file.

Thresholds become float32, as ONNX holds them. LightGBM's and scikit-learn's are doubles compared with ``<=``: rounded
toward −∞ they send each float32 row the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper

from xai_service.types import Float32Array, Float64Array, Int64Array

_LESS, _LESS_EQUAL = 2, 3  # treelite's Operator::kLT and kLE


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """All nodes of all trees, tree by tree, root first.

    Attributes:
        begin: int64 (trees + 1,), where each tree's nodes begin.
        output: int64 (trees,), the margin that the tree adds to.
        left, right: int64, children within the tree; -1 in leaves. A row goes left where the comparison holds.
        feature: int64, 0 in leaves.
        threshold: float32, 0 in leaves.
        inclusive: bool, whether the comparison is ``<=`` rather than ``<``.
        missing_left: bool, whether NaN goes left.
        value: float64, the leaf's contribution; 0 in splits.
        cover: float64.
        base: float64 (outputs,), added to the leaves.
        n_features: columns of a row.
    """

    begin: Int64Array
    output: Int64Array
    left: Int64Array
    right: Int64Array
    feature: Int64Array
    threshold: Float32Array
    inclusive: NDArray[np.bool_]
    missing_left: NDArray[np.bool_]
    value: Float64Array
    cover: Float64Array
    base: Float64Array
    n_features: int

    @property
    def n_leaves(self) -> int:
        """Leaves of all trees."""
        return int((self.left < 0).sum())

    def save(self, path: Path) -> None:
        """Writes a .npz file that `bench.rivals` reads."""
        np.savez(path, **{name: getattr(self, name) for name in self.__slots__})


def read(model: Any, *, cover: str, positive_class: int | None = None) -> Trees:
    """Returns the trees of a treelite model.

    Args:
        model: a ``treelite.Model`` with numeric splits only.
        cover: treelite's field that holds the covers: "sum_hess" or "data_count".
        positive_class: for leaves that hold a vector, the class whose value is the margin; trees are then averaged.
    """
    header = model.get_header_accessor()
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in Trees.__slots__[2:-2]}
    lengths = []
    for t in range(model.num_tree):
        tree = model.get_tree_accessor(t)
        left, right = (tree.get_field(name).astype(np.int64) for name in ("cleft", "cright"))
        split = left >= 0
        if np.any(tree.get_field("has_categorical_split")):
            raise ValueError(f"tree {t} has categorical splits")
        if not tree.get_field(f"{cover}_present").all():
            raise ValueError(f"tree {t} lacks {cover}")
        comparison = tree.get_field("cmp")
        if not np.isin(comparison[split], (_LESS, _LESS_EQUAL)).all():
            raise ValueError(f"tree {t} compares otherwise than with < or <=")
        value = tree.get_field("leaf_value").astype(np.float64)
        if positive_class is not None:
            vectors, begin = tree.get_field("leaf_vector"), tree.get_field("leaf_vector_begin").astype(np.int64)
            value = np.zeros(len(left))
            value[~split] = vectors[begin[~split] + positive_class] / model.num_tree
        inclusive = split & (comparison == _LESS_EQUAL)
        lengths.append(len(left))
        parts["left"].append(left)
        parts["right"].append(np.where(split, right, -1))
        parts["feature"].append(np.where(split, tree.get_field("split_index"), 0).astype(np.int64))
        parts["threshold"].append(_float32(np.where(split, tree.get_field("threshold"), 0), inclusive))
        parts["inclusive"].append(inclusive)
        parts["missing_left"].append(split & (tree.get_field("default_left") != 0))
        parts["value"].append(np.where(split, 0.0, value))
        parts["cover"].append(tree.get_field(cover).astype(np.float64))
    several = positive_class is None and int(header.get_field("num_class")[0]) > 1
    base = header.get_field("base_scores").astype(np.float64)
    return Trees(
        begin=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        output=header.get_field("class_id").astype(np.int64) if several else np.zeros(len(lengths), np.int64),
        base=base if several else base[:1],
        n_features=int(header.get_field("num_feature")[0]),
        **{name: np.concatenate(arrays) for name, arrays in parts.items()},
    )


def _float32(threshold: NDArray[Any], inclusive: NDArray[np.bool_]) -> Float32Array:
    if threshold.dtype == np.float32:
        return threshold
    with np.errstate(over="ignore", under="ignore"):
        rounded = threshold.astype(np.float32)
    if (~inclusive & (rounded != threshold)).any():
        raise ValueError("a float64 threshold is compared with <, which float32 cannot carry")
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def write_onnx(trees: Trees) -> bytes:
    """Returns an ONNX file whose one output ``margin`` is float32 (n, outputs); covers are in ``nodes_hitrates``."""
    lengths = np.diff(trees.begin)
    tree_ids = np.repeat(np.arange(len(lengths)), lengths)
    node_ids = np.arange(len(tree_ids)) - np.repeat(trees.begin[:-1], lengths)
    leaf = trees.left < 0
    modes = np.where(leaf, b"LEAF", np.where(trees.inclusive, b"BRANCH_LEQ", b"BRANCH_LT"))
    node = NodeProto(op_type="TreeEnsembleRegressor", domain="ai.onnx.ml", input=["input"], output=["margin"])
    node.attribute.extend(
        [
            AttributeProto(name="n_targets", type=AttributeProto.INT, i=len(trees.base)),
            _floats("base_values", trees.base),
            _ints("nodes_treeids", tree_ids),
            _ints("nodes_nodeids", node_ids),
            AttributeProto(name="nodes_modes", type=AttributeProto.STRINGS, strings=modes.tolist()),
            _ints("nodes_featureids", trees.feature),
            _floats("nodes_values", trees.threshold),
            _ints("nodes_truenodeids", np.maximum(trees.left, 0)),
            _ints("nodes_falsenodeids", np.maximum(trees.right, 0)),
            _ints("nodes_missing_value_tracks_true", trees.missing_left),
            _floats("nodes_hitrates", trees.cover),
            _ints("target_treeids", tree_ids[leaf]),
            _ints("target_nodeids", node_ids[leaf]),
            _ints("target_ids", trees.output[tree_ids[leaf]]),
            _floats("target_weights", trees.value[leaf]),
        ]
    )
    widths = {"input": trees.n_features, "margin": len(trees.base)}
    values = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, [None, n]) for k, n in widths.items()}
    graph = helper.make_graph([node], "bench", [values["input"]], [values["margin"]])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, ir_version=8, opset_imports=opsets).SerializeToString())


# onnx.helper looks at every element to guess an attribute's type: minutes for millions of nodes.
def _ints(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.INTS, ints=values.astype(np.int64).tolist())


def _floats(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.FLOATS, floats=values.astype(np.float32).tolist())
