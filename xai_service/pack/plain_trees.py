"""Trees as scikit-learn and CatBoost hold them: in float64, split by ``<=`` or by sets, with the value of each node.

From them come the trees that are packed, and, computed by shap's own C code, the attributions to compare with.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.pack.forest import Tree, level_order, round_thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xai_service.pack.native import Contributions
    from xai_service.types import Float32Array, Float64Array, Int64Array

SHAP = "shap TreeExplainer"


@dataclass(frozen=True, slots=True, eq=False)
class PlainTree:
    """One tree; node 0 is the root.

    Attributes:
        left, right: int64, children; -1 in leaves. A row goes left where ``value <= threshold``, or a set has its code.
        feature: int64, the column asked about; of leaves anything.
        threshold: float64; of leaves and sets anything.
        missing_left: bool, whether NaN goes left.
        value: float64 (nodes, outputs added to), the leaf's contribution to the margins; of splits anything.
        outputs: int64 (outputs added to,), which outputs these are.
        cover: float64, finite, ≥ 0.
        sets: the codes that go left, by split; at least one each.
    """

    left: Int64Array
    right: Int64Array
    feature: Int64Array
    threshold: Float64Array
    missing_left: NDArray[np.bool_]
    value: Float64Array
    outputs: Int64Array
    cover: Float64Array
    sets: Mapping[int, Float32Array] = field(default_factory=dict)


def packed_trees(trees: Sequence[PlainTree], *, compares_float64: bool = False) -> tuple[Tree, ...]:
    """Returns the trees as they are packed: float32, level by level.

    Args:
        trees: all of a model's.
        compares_float64: whether the library compares float64 values as they are, rather than rounded to float32.

    Raises:
        PackRefused: a tree is malformed or too deep.
    """
    return tuple(_packed(tree, number, compares_float64=compares_float64) for number, tree in enumerate(trees))


def _packed(tree: PlainTree, number: int, *, compares_float64: bool) -> Tree:
    order, parent, left, right = level_order(tree.left, tree.right, number)
    split = left >= 0
    sets = [tree.sets.get(node, np.empty(0, np.float32)) if node in tree.sets else None for node in order.tolist()]
    is_set = np.array([codes is not None for codes in sets])
    if any(codes is not None and not len(codes) for codes in sets):
        raise PackRefused(f"tree {number}: a set of categories is empty")
    numeric = split & ~is_set
    threshold = np.where(numeric, tree.threshold[order], 0.0)
    with np.errstate(over="ignore"):  # to infinity, which is refused with the leaf's place
        leaf = np.where(split[:, None], 0.0, tree.value[order]).astype(np.float32)
    return Tree(
        left=left,
        right=right,
        parent=parent,
        feature=np.where(split, tree.feature[order], 0),
        threshold=round_thresholds(threshold, numeric),
        inclusive=numeric,
        missing_left=split & tree.missing_left[order],
        leaf=leaf,
        outputs=tree.outputs,
        cover=tree.cover[order],
        set_begin=np.r_[0, np.cumsum([0 if codes is None else len(codes) for codes in sets])].astype(np.int64),
        set_value=np.concatenate([np.empty(0, np.float32), *(codes for codes in sets if codes is not None)]),
        exact=threshold if compares_float64 else None,
    )


def shap_contributions(
    trees: Sequence[PlainTree], base: Float64Array, *, compares_float64: bool = False
) -> Contributions | None:
    """Returns what computes these trees' attributions by shap's path-dependent TreeSHAP.

    ``None`` where shap is not installed, or gets such trees wrong: it knows no sets.

    Args:
        trees: all of a model's.
        base: float64 (outputs,), added to their margins.
        compares_float64: as in `packed_trees`.
    """
    if importlib.util.find_spec("shap") is None or any(tree.sets for tree in trees):
        return None

    def contributions(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        import shap  # noqa: PLC0415 - takes seconds

        explainer = shap.TreeExplainer(
            {
                "trees": [_for_shap(tree, len(base)) for tree in trees],
                "input_dtype": np.float64 if compares_float64 else np.float32,
            },
            feature_perturbation="tree_path_dependent",
        )
        phi = np.asarray(explainer.shap_values(rows, check_additivity=False), np.float64).reshape(*rows.shape, -1)
        return phi, np.atleast_1d(explainer.expected_value) + base

    return contributions


def _for_shap(tree: PlainTree, n_outputs: int) -> dict[str, Any]:
    values = np.zeros((len(tree.left), n_outputs))
    values[:, tree.outputs] = tree.value
    split = tree.left >= 0
    return {
        "children_left": tree.left,
        "children_right": tree.right,
        "children_default": np.where(tree.missing_left, tree.left, tree.right),
        "features": np.where(split, tree.feature, -1),
        "thresholds": np.where(split, tree.threshold, -1.0),
        "values": np.where(split[:, None], 0.0, values),
        "node_sample_weight": tree.cover,
    }
