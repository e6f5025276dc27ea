"""The trees of a treelite model as arrays, read through its field accessors and checked.

``dump_as_json`` would be shorter, but writes invalid JSON for infinite thresholds. The checks are the kernel's own
(``native/treeshap/forest.cpp``), so that what is packed can be served, and one more: covers must add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xai_service.model.manifest import Cover
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array, Int64Array

_COVER_FIELDS: dict[Cover, str] = {"sum_hessian": "sum_hess"}
_LESS, _LESS_EQUAL = 2, 3  # treelite's Operator::kLT and kLE
_MAX_DEPTH = 1024
_MAX_NODES = 1 << 26
# Covers are float32 sums of the same rows: 1.2e-7 was the worst in 40-tree models of three tree methods.
_COVER_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree; node 0 is the root, and nodes stand level by level.

    Attributes:
        left, right: int64, children; -1 in leaves. A row goes left where the comparison holds.
        parent: int64, -1 in the root.
        feature: int64, the column compared; 0 in leaves.
        threshold: float32, 0 in leaves.
        inclusive: bool, whether the comparison is ``<=`` rather than ``<``.
        missing_left: bool, whether NaN goes left.
        leaf: float32, the leaf's contribution to the margin; 0 in splits.
        cover: float64, finite, ≥ 0.
    """

    left: Int64Array
    right: Int64Array
    parent: Int64Array
    feature: Int64Array
    threshold: Float32Array
    inclusive: NDArray[np.bool_]
    missing_left: NDArray[np.bool_]
    leaf: Float32Array
    cover: Float64Array

    @property
    def splits(self) -> Int64Array:
        """The nodes that are no leaves, in order."""
        return np.flatnonzero(self.left >= 0)


def read_trees(native: NativeModel) -> tuple[Tree, ...]:
    """Returns the model's trees.

    Raises:
        PackRefused: a split, leaf or cover of a kind that cannot be carried; says where.
    """
    header = native.trees.get_header_accessor()
    for name, due in (("num_target", 1), ("num_class", 1), ("average_tree_output", 0)):
        if np.any(header.get_field(name) != due):
            raise PackRefused(f"{name} is {header.get_field(name)}, only {due} is supported yet")
    n_trees = native.trees.num_tree
    if n_trees == 0:
        raise PackRefused("the model has no trees")
    field = _COVER_FIELDS[native.cover]
    trees = tuple(_read_tree(native.trees.get_tree_accessor(t), t, native.n_features, field) for t in range(n_trees))
    if sum(len(tree.left) for tree in trees) > _MAX_NODES:
        raise PackRefused(f"the model has more than {_MAX_NODES} nodes")
    return trees


def _read_tree(accessor: Any, tree: int, n_features: int, cover_field: str) -> Tree:
    left, right = (accessor.get_field(name).astype(np.int64) for name in ("cleft", "cright"))
    order, parent = _level_order(left, right, tree)
    position = np.full(len(left), -1, np.int64)
    position[order] = np.arange(len(order))
    left, right = left[order], right[order]
    split = left >= 0
    left[split], right[split] = position[left[split]], position[right[split]]
    right[~split] = -1

    def values(name: str) -> NDArray[Any]:
        return np.asarray(accessor.get_field(name)[order])

    if accessor.get_field("leaf_vector").size:
        raise PackRefused(f"tree {tree} has several values in a leaf; models with one output are supported")
    if np.any(values("category_list_right_child")) or np.any(accessor.get_field("has_categorical_split")):
        raise PackRefused(f"tree {tree} has categorical splits; categoricals are not supported yet")
    threshold, leaf, comparison = values("threshold"), values("leaf_value"), values("cmp")
    if threshold.dtype != np.float32 or leaf.dtype != np.float32:
        raise PackRefused(f"thresholds and leaves are {threshold.dtype}; only float32 is supported yet")
    feature = values("split_index").astype(np.int64)
    _refuse(split & ~np.isin(comparison, (_LESS, _LESS_EQUAL)), tree, "compares otherwise than with < or <=")
    _refuse(split & np.isnan(threshold), tree, "has NaN for its threshold")
    _refuse(split & ((feature < 0) | (feature >= n_features)), tree, f"splits on a feature beyond the {n_features}")
    _refuse(~split & ~np.isfinite(leaf), tree, "is a leaf whose value is not finite")
    present, cover = (accessor.get_field(f"{cover_field}{suffix}") for suffix in ("_present", ""))
    if not len(present) == len(cover) == len(position) or not present[order].all():
        raise PackRefused(f"tree {tree} lacks covers ({cover_field}), which explanations need")
    cover = cover[order].astype(np.float64)
    _check_covers(cover, left, right, tree)
    return Tree(
        left=left,
        right=right,
        parent=parent,
        feature=np.where(split, feature, 0),
        threshold=np.where(split, threshold, np.float32(0)),
        inclusive=split & (comparison == _LESS_EQUAL),
        missing_left=split & (values("default_left") != 0),
        leaf=np.where(split, np.float32(0), leaf),
        cover=cover,
    )


def _level_order(left: Int64Array, right: Int64Array, tree: int) -> tuple[Int64Array, Int64Array]:
    """Returns the nodes that the root reaches, level by level, and the parents' places in that order."""
    levels, parents = [np.zeros(1, np.int64)], [np.full(1, -1, np.int64)]
    seen = 1
    while True:
        level = levels[-1]
        inner = np.flatnonzero(left[level] >= 0)
        if not len(inner):
            return np.concatenate(levels), np.concatenate(parents)
        first = seen - len(level)
        children = np.column_stack((left[level[inner]], right[level[inner]])).ravel()
        seen += len(children)
        if len(levels) > _MAX_DEPTH or seen > len(left) or children.min() < 1 or children.max() >= len(left):
            raise PackRefused(f"tree {tree} is malformed or deeper than {_MAX_DEPTH}")
        levels.append(children)
        parents.append(np.repeat(first + inner, 2))


def _check_covers(cover: Float64Array, left: Int64Array, right: Int64Array, tree: int) -> None:
    _refuse(~np.isfinite(cover) | (cover < 0), tree, "has a cover that is not a finite number, 0 or greater")
    if left[0] < 0:
        return
    if cover[0] == 0:
        raise PackRefused(f"tree {tree}: no row covers it (its root's cover is 0), so it cannot be explained")
    if (cover == 1).all():  # how converters fill in covers that they do not have
        raise PackRefused(f"tree {tree} has cover 1.0 on every node: these are no covers, which explanations need")
    # Explanations weigh the branches by their share of the parent's cover: shares that do not add up to 1 would not
    # add up to the margin.
    split = left >= 0
    below = np.where(split, cover[left] + cover[right], cover)
    wrong = np.abs(below - cover) > _COVER_TOLERANCE * cover
    _refuse(wrong, tree, "has a cover that is not the sum of its children's covers")


def _refuse(wrong: NDArray[np.bool_], tree: int, what: str) -> None:
    if wrong.any():
        raise PackRefused(f"tree {tree}, node {int(np.argmax(wrong))}: {what}")
