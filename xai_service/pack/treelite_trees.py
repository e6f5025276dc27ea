"""The trees of a treelite model, read through its field accessors.

``dump_as_json`` would be shorter, but writes invalid JSON for infinite thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.pack.forest import Tree, level_order, round_thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from xai_service.model.manifest import Cover
    from xai_service.types import Float64Array, Int64Array

_COVER_FIELDS: Mapping[Cover, str] = {
    "sum_hessian": "sum_hess",
    "data_count": "data_count",
    "weighted_count": "sum_hess",
}
_NUMERIC, _CATEGORICAL = 1, 2  # treelite's TreeNodeType
_LESS, _LESS_EQUAL = 2, 3  # treelite's Operator::kLT and kLE


@dataclass(frozen=True, slots=True, eq=False)
class TreeliteForest:
    """What a treelite model holds.

    Attributes:
        trees: one for each of its trees.
        base: float64 (outputs,), its base scores, each rounded to a float32.
    """

    trees: tuple[Tree, ...]
    base: Float64Array


def read_treelite(
    model: Any,
    cover: Cover,
    *,
    thresholds: Callable[[Float64Array], Float64Array] | None = None,
    compares_float64: bool = False,
    share_with_base: bool = False,
) -> TreeliteForest:
    """Returns the trees and base scores of ``model``, a ``treelite.Model``.

    Outputs are numbered target by target and, within a target, class by class. Where the model takes the average of its
    trees, leaves are divided by the number of trees that add to their output.

    Args:
        model: as one of treelite's frontends made it.
        cover: which of the numbers that treelite keeps for a node is its cover.
        thresholds: changes the float64 thresholds of ``<=`` splits before they are rounded, where the library looks at
            other values than it is given.
        compares_float64: whether the library compares float64 values as they are, rather than rounded to float32.
        share_with_base: of leaves that lie farther from 0 than from each other, move what they share to the base score.
            Float32 would hold their differences badly. For libraries whose leaves are float64.

    Raises:
        PackRefused: a split, leaf or cover of a kind that cannot be carried; says where.
    """
    header = model.get_header_accessor()
    n_classes = int(header.get_field("num_class").max())
    n_outputs = int(header.get_field("num_target")[0]) * n_classes
    outputs = [
        _outputs(int(target), int(label), n_outputs // n_classes, n_classes)
        for target, label in zip(header.get_field("target_id"), header.get_field("class_id"), strict=True)
    ]
    divisors = np.ones(n_outputs)
    if header.get_field("average_tree_output")[0]:
        divisors = np.bincount(np.concatenate(outputs), minlength=n_outputs).astype(np.float64)
    base = header.get_field("base_scores").astype(np.float64)
    if base.shape != (n_outputs,):
        raise PackRefused(f"the model has {base.size} base scores for {n_outputs} outputs")
    trees = []
    for t, added_to in enumerate(outputs):
        accessor = model.get_tree_accessor(t)
        leaf = _leaves(accessor, len(added_to), divisors[added_to], t)
        shared = _shared(leaf[_is_leaf(accessor)]) if share_with_base else np.zeros(len(added_to))
        base[added_to] += shared
        tree = _read_tree(accessor, t, added_to, leaf - shared, _COVER_FIELDS[cover], thresholds)
        trees.append(tree if compares_float64 else replace(tree, exact=None))
    return TreeliteForest(tuple(trees), base.astype(np.float32).astype(np.float64))


def _outputs(target: int, label: int, n_targets: int, n_classes: int) -> Int64Array:
    """Returns the outputs that a tree adds to; -1 stands for all targets, or all classes."""
    targets = range(n_targets) if target < 0 else [target]
    labels = range(n_classes) if label < 0 else [label]
    return np.array([t * n_classes + c for t in targets for c in labels], np.int64)


def _read_tree(
    accessor: Any,
    tree: int,
    outputs: Int64Array,
    leaf: Float64Array,
    cover_field: str,
    thresholds: Callable[[Float64Array], Float64Array] | None,
) -> Tree:
    left, right = (accessor.get_field(name).astype(np.int64) for name in ("cleft", "cright"))
    order, parent, left, right = level_order(left, right, tree)
    split = left >= 0

    def values(name: str) -> NDArray[Any]:
        return np.asarray(accessor.get_field(name)[order])

    comparison, kind = values("cmp"), values("node_type")
    numeric, categorical = split & (kind == _NUMERIC), split & (kind == _CATEGORICAL)
    if (split & ~numeric & ~categorical).any() or not np.isin(comparison[numeric], (_LESS, _LESS_EQUAL)).all():
        node = int(np.argmax(split & ~categorical & ~np.isin(comparison, (_LESS, _LESS_EQUAL))))
        raise PackRefused(f"tree {tree}, node {node}: compares otherwise than with < or <=")
    set_begin, set_value = _sets(accessor, order, categorical, tree)
    # A row whose code is in the set goes left, here as in the ONNX file.
    exchanged = categorical & (values("category_list_right_child") != 0)
    inclusive = numeric & (comparison == _LESS_EQUAL)
    threshold = np.where(numeric, values("threshold").astype(np.float64), 0.0)
    if thresholds is not None:
        threshold = np.where(inclusive, thresholds(threshold), threshold)
    with np.errstate(over="ignore"):  # to infinity, which is refused with the leaf's place
        rounded = np.where(split[:, None], 0.0, leaf[order]).astype(np.float32)
    return Tree(
        left=np.where(exchanged, right, left),
        right=np.where(exchanged, left, right),
        parent=parent,
        feature=np.where(split, values("split_index").astype(np.int64), 0),
        threshold=round_thresholds(threshold, inclusive),
        inclusive=inclusive,
        missing_left=split & ((values("default_left") != 0) ^ exchanged),
        leaf=rounded,
        outputs=outputs,
        cover=_covers(accessor, order, cover_field, tree),
        set_begin=set_begin,
        set_value=set_value,
        exact=threshold,
    )


def _sets(
    accessor: Any, order: Int64Array, categorical: NDArray[np.bool_], tree: int
) -> tuple[Int64Array, NDArray[np.float32]]:
    begin, end = (
        accessor.get_field(f"category_list_{name}")[order].astype(np.int64) * categorical for name in ("begin", "end")
    )
    sizes = end - begin
    if (categorical & (sizes < 1)).any():
        raise PackRefused(
            f"tree {tree}, node {int(np.argmax(categorical & (sizes < 1)))}: its set of categories is empty"
        )
    set_begin = np.r_[0, np.cumsum(sizes)]
    places = np.repeat(begin - set_begin[:-1], sizes) + np.arange(set_begin[-1])
    return set_begin, accessor.get_field("category_list")[places].astype(np.float32)


def _is_leaf(accessor: Any) -> NDArray[np.bool_]:
    return np.asarray(accessor.get_field("cleft") < 0)


def _leaves(accessor: Any, n_outputs: int, divisors: Float64Array, tree: int) -> Float64Array:
    """Returns what each node adds to the outputs, (nodes, outputs); 0 in splits."""
    is_leaf = _is_leaf(accessor)
    leaf = np.zeros((len(is_leaf), n_outputs))
    vector = accessor.get_field("leaf_vector")
    if vector.size:
        begin, end = (accessor.get_field(f"leaf_vector_{name}").astype(np.int64) for name in ("begin", "end"))
        if ((end - begin)[is_leaf] != n_outputs).any():
            raise PackRefused(f"tree {tree} has leaves of another number of values than the {n_outputs} outputs")
        leaf[is_leaf] = vector[begin[is_leaf][:, None] + np.arange(n_outputs)]
    elif n_outputs != 1:
        raise PackRefused(f"tree {tree} has leaves of one value for {n_outputs} outputs")
    else:
        leaf[is_leaf, 0] = accessor.get_field("leaf_value")[is_leaf]
    return leaf / divisors


def _shared(leaf: Float64Array) -> Float64Array:
    """Returns, for each output, a float32 amid the leaves (leaves, outputs) that lie far from 0, else 0."""
    low, high = leaf.min(axis=0), leaf.max(axis=0)
    middle = low + (high - low) / 2
    with np.errstate(over="ignore"):  # to infinity, as the leaves themselves would
        return np.where(np.abs(middle) > high - low, middle.astype(np.float32), 0.0)


def _covers(accessor: Any, order: Int64Array, field: str, tree: int) -> Float64Array:
    present, cover = (accessor.get_field(f"{field}{suffix}") for suffix in ("_present", ""))
    if len(present) != len(cover) or len(cover) <= order.max() or not present[order].all():
        raise PackRefused(f"tree {tree} lacks covers ({field}), which explanations need")
    return np.asarray(cover[order].astype(np.float64))
