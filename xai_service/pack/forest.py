"""Trees as arrays, checked: whatever library they come from, this is what is written and probed.

The checks are the kernel's own (``native/treeshap/forest.cpp``), so that what is packed can be served, and one more:
covers must add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xai_service.types import Float32Array, Float64Array, Int64Array

MAX_DEPTH = 1024
MAX_NODES = 1 << 26
# Covers are float32 sums of the same rows: 1.2e-7 was the worst in 40-tree models of three tree methods.
_COVER_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree; node 0 is the root, and nodes stand level by level.

    A split asks either how a value compares with a threshold, or whether it is one of a set of codes.

    Attributes:
        left, right: int64, children; -1 in leaves. A row goes left where the comparison holds, or the set has its code.
        parent: int64, -1 in the root.
        feature: int64, the column asked about; 0 in leaves.
        threshold: float32, 0 in leaves and where there is a set.
        inclusive: bool, whether the comparison is ``<=`` rather than ``<``.
        missing_left: bool, whether NaN goes left.
        leaf: float32 (nodes, outputs added to), the leaf's contribution to the margins; 0 in splits.
        outputs: int64 (outputs added to,), which outputs these are.
        cover: float64, finite, ≥ 0; empty where the model carries none.
        set_begin: int64 (nodes + 1,): node i has the codes ``set_value[set_begin[i] : set_begin[i + 1]]``, or none.
        set_value: float32, whole numbers ≥ 0.
        exact: float64, the thresholds before they were rounded, of a library that compares float64 values with them;
            ``None`` where it rounds values to float32 first. Only values that are no float32 tell them apart.
    """

    left: Int64Array
    right: Int64Array
    parent: Int64Array
    feature: Int64Array
    threshold: Float32Array
    inclusive: NDArray[np.bool_]
    missing_left: NDArray[np.bool_]
    leaf: Float32Array
    outputs: Int64Array
    cover: Float64Array
    set_begin: Int64Array
    set_value: Float32Array
    exact: Float64Array | None = None

    @property
    def splits(self) -> Int64Array:
        """The nodes that are no leaves, in order."""
        return np.flatnonzero(self.left >= 0)

    @property
    def set_sizes(self) -> Int64Array:
        """How many codes each node's set has; 0 where it has none."""
        return np.diff(self.set_begin)

    def codes(self, node: int) -> Float32Array:
        """Returns the node's set."""
        return self.set_value[self.set_begin[node] : self.set_begin[node + 1]]


def check_forest(trees: Sequence[Tree], n_features: int, n_outputs: int) -> None:
    """Checks what a reader made.

    Raises:
        PackRefused: a split, leaf or cover that cannot be served or explained; says where.
    """
    if not trees:
        raise PackRefused("the model has no trees")
    if sum(len(tree.left) + len(tree.set_value) for tree in trees) > MAX_NODES:
        raise PackRefused(f"the model has more than {MAX_NODES} nodes")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, n_features)
        if len(tree.cover):
            check_covers(tree, number)
    lacking = sorted(set(range(n_outputs)) - {int(output) for tree in trees for output in tree.outputs})
    if lacking:  # ONNX Runtime would leave its base value out
        raise PackRefused(f"output {lacking[0]} has no trees")


def level_order(
    left: Int64Array, right: Int64Array, tree: int
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Returns the nodes that the root reaches, level by level, and of each, in that order, parent, left and right.

    Args:
        left: int64 (nodes,), children; below 0 in leaves.
        right: int64 (nodes,), likewise.
        tree: number of the tree, for errors.

    Raises:
        PackRefused: what hangs below node 0 is no tree, or deeper than `MAX_DEPTH`.
    """
    levels, parents = [np.zeros(1, np.int64)], [np.full(1, -1, np.int64)]
    seen = 1
    while True:
        level = levels[-1]
        inner = np.flatnonzero(left[level] >= 0)
        if not len(inner):
            order = np.concatenate(levels)
            position = np.full(len(left), -1, np.int64)
            position[order] = np.arange(len(order))
            split = left[order] >= 0
            to_left, to_right = (np.where(split, position[of[order]], -1) for of in (left, right))
            return order, np.concatenate(parents), to_left, to_right
        first = seen - len(level)
        children = np.column_stack((left[level[inner]], right[level[inner]])).ravel()
        seen += len(children)
        if len(levels) > MAX_DEPTH or seen > len(left) or children.min() < 1 or children.max() >= len(left):
            raise PackRefused(f"tree {tree} is malformed or deeper than {MAX_DEPTH}")
        levels.append(children)
        parents.append(np.repeat(first + inner, 2))


def round_thresholds(threshold: NDArray[Any], inclusive: NDArray[np.bool_]) -> Float32Array:
    """Returns float32 thresholds that every float32 compares with as with these float64 ones.

    Rounding to the nearest would let values pass that lie between the two: ``<=`` rounds down, ``<`` up.
    """
    exact = threshold.astype(np.float64)
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
        back = nearest.astype(np.float64)
        down = np.nextafter(nearest, np.float32(-np.inf))
        up = np.nextafter(nearest, np.float32(np.inf))
    return np.where(inclusive & (back > exact), down, np.where(~inclusive & (back < exact), up, nearest))


def _check_tree(tree: Tree, number: int, n_features: int) -> None:
    split = tree.left >= 0
    feature, codes = tree.feature, tree.set_value
    _refuse(split & np.isnan(tree.threshold), number, "has NaN for its threshold")
    _refuse(split & ((feature < 0) | (feature >= n_features)), number, f"splits on a feature beyond the {n_features}")
    _refuse(~split & ~np.isfinite(tree.leaf).all(axis=1), number, "is a leaf whose value is not finite in float32")
    if not ((codes >= 0) & (codes == np.floor(codes)) & (codes < 1 << 24)).all():
        raise PackRefused(f"tree {number} has a category whose code is no whole number below 2^24")


def check_covers(tree: Tree, number: int) -> None:
    """Checks that the covers of the tree of this number make sense.

    Raises:
        PackRefused: they do not; says where.
    """
    cover, left, right = tree.cover, tree.left, tree.right
    _refuse(~np.isfinite(cover) | (cover < 0), number, "has a cover that is not a finite number, 0 or greater")
    if left[0] < 0:
        return
    if cover[0] == 0:
        raise PackRefused(f"tree {number}: no row covers it (its root's cover is 0), so it cannot be explained")
    if (cover == 1).all():  # how converters fill in covers that they do not have
        raise PackRefused(f"tree {number} has cover 1.0 on every node, as converters write that have no covers")
    # Explanations weigh the branches by their share of the parent's cover: shares that do not add up to 1 would not
    # add up to the margin.
    split = left >= 0
    below = np.where(split, cover[left] + cover[right], cover)
    wrong = np.abs(below - cover) > _COVER_TOLERANCE * cover
    _refuse(wrong, number, "has a cover that is not the sum of its children's covers")


def _refuse(wrong: NDArray[np.bool_], tree: int, what: str) -> None:
    if wrong.any():
        raise PackRefused(f"tree {tree}, node {int(np.argmax(wrong))}: {what}")
