"""The attributes of ONNX's tree operators, as the arrays that the kernel takes and packing reads.

The attributes are untrusted. Values are read as float64, which holds float32 exactly: whoever serves float32 trees
gets them as they are, and packing, which also reads double trees, rounds them itself.

With one target, ONNX Runtime takes a leaf's first weight and, where there is none, the leaf's threshold: such a file
must give each leaf exactly one. Missing-value flags other than 0 and 1 and tree ids beyond 32 bits are read differently
by others, so they are refused too. With several targets, ONNX Runtime drops a target's base value on rows that reach no
weight of that target: such a target must have a tree whose leaves all weigh on it.

A split on one category is ``BRANCH_EQ`` or ``BRANCH_NEQ``; the kernel takes chains of them for sets. ONNX Runtime does
so too where the codes suit it, and then asks the first node alone where NaN goes: all must say the same.

NaN: ONNX Runtime compares first (false for NaN), then takes the true branch if ``nodes_missing_value_tracks_true`` says
so. ``>`` and ``>=`` are read as ``<=`` and ``<`` with the branches exchanged, NaN's route with them; ``!=`` likewise as
``==``, but holds for NaN, which so takes the true branch whatever the flag says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, helper

from xai_service.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

LEAF, LESS, LESS_EQUAL, MEMBER = 0, 1, 2, 3
"""Kinds of nodes."""

# mode: (kind, whether the branches are exchanged)
_MODES = {
    b"LEAF": (LEAF, False),
    b"BRANCH_LT": (LESS, False),
    b"BRANCH_LEQ": (LESS_EQUAL, False),
    b"BRANCH_GTE": (LESS, True),
    b"BRANCH_GT": (LESS_EQUAL, True),
    b"BRANCH_EQ": (MEMBER, False),
    b"BRANCH_NEQ": (MEMBER, True),
}
_ID_LIMIT = 1 << 31  # ids are 32 bits wide in ONNX Runtime
_MAX_TARGETS = 1 << 16  # the kernel's own bound
REGRESSOR_ATTRIBUTES: Mapping[str, int] = {
    "aggregate_function": AttributeProto.STRING,
    "base_values": AttributeProto.FLOATS,
    "n_targets": AttributeProto.INT,
    "nodes_falsenodeids": AttributeProto.INTS,
    "nodes_featureids": AttributeProto.INTS,
    "nodes_hitrates": AttributeProto.FLOATS,
    "nodes_missing_value_tracks_true": AttributeProto.INTS,
    "nodes_modes": AttributeProto.STRINGS,
    "nodes_nodeids": AttributeProto.INTS,
    "nodes_treeids": AttributeProto.INTS,
    "nodes_truenodeids": AttributeProto.INTS,
    "nodes_values": AttributeProto.FLOATS,
    "post_transform": AttributeProto.STRING,
    "target_ids": AttributeProto.INTS,
    "target_nodeids": AttributeProto.INTS,
    "target_treeids": AttributeProto.INTS,
    "target_weights": AttributeProto.FLOATS,
}
"""Attributes of a ``TreeEnsembleRegressor`` of float32 trees, each with its type."""


def read_attributes(node: onnx.NodeProto, known: Mapping[str, int], hint: str = "") -> dict[str, Any]:
    """Returns the node's attributes by name.

    Args:
        node: a tree operator.
        known: which attributes it may have, each with its type.
        hint: what to add where it has another.

    Raises:
        InvalidModel: an attribute is unknown, stands twice, or is of another type.
    """
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name not in known:
            raise InvalidModel(f"attribute {name[:64]!r} of the tree ensemble is not supported{hint}")
        if name in values:
            raise InvalidModel(f"attribute {name} of the tree ensemble stands twice")
        if attribute.type != known[name] or attribute.ref_attr_name:
            raise InvalidModel(f"{name} must be of type {AttributeProto.AttributeType.Name(known[name])}")
        values[name] = helper.get_attribute_value(attribute)
    return values


def _array(attributes: Mapping[str, Any], name: str, dtype: type) -> NDArray[Any]:
    return np.array(attributes.get(name, []), dtype)


def _lengths(n: int, unit: str, **arrays: NDArray[Any]) -> None:
    for name, array in arrays.items():
        if len(array) != n:
            raise InvalidModel(f"{name} has {len(array)} entries for {n} {unit}")


def raw_forest(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `_treeshap.Forest` takes, apart from ``n_features``; nodes stay in the file's order.

    Args:
        attributes: of a ``TreeEnsembleRegressor``, by name; values and weights may be doubles.

    Raises:
        InvalidModel: they do not fit together; names the attribute.
    """
    trees = _array(attributes, "nodes_treeids", np.int64)
    n = len(trees)
    if n == 0:
        raise InvalidModel("the tree ensemble has no node")
    if trees.min() < -_ID_LIMIT or trees.max() >= _ID_LIMIT:
        raise InvalidModel("nodes_treeids must fit 32 bits")
    if np.any(trees == -1):
        raise InvalidModel("nodes_treeids has a tree -1, which ONNX Runtime counts twice: number the trees from 0")
    names = ("nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")
    ids, features, on_true, on_false = (_array(attributes, name, np.int64) for name in names)
    thresholds = _array(attributes, "nodes_values", np.float64)
    covers = _array(attributes, "nodes_hitrates", np.float64)
    _lengths(n, "nodes", **dict(zip(names, (ids, features, on_true, on_false), strict=True)), nodes_values=thresholds)
    if len(covers):
        _lengths(n, "nodes", nodes_hitrates=covers)
    missing_true = _missing_true(attributes, n)
    kind, exchanged = _kinds(attributes, n)

    # ONNX Runtime takes the first node of each run of equal tree ids as that tree's root.
    starts = np.flatnonzero(np.r_[True, trees[1:] != trees[:-1]])
    if len(np.unique(trees[starts])) != len(starts):
        raise InvalidModel("the nodes of a tree must stand side by side (nodes_treeids)")
    run = np.cumsum(np.r_[True, trees[1:] != trees[:-1]]) - 1
    index = _NodeIndex(run, ids, len(starts))
    inner, member = kind != LEAF, kind == MEMBER
    true_index, false_index = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    true_index[inner] = index.find(run[inner], on_true[inner], "nodes_truenodeids")
    false_index[inner] = index.find(run[inner], on_false[inner], "nodes_falsenodeids")
    left, right = np.where(exchanged, false_index, true_index), np.where(exchanged, true_index, false_index)
    nan_left = (missing_true ^ exchanged) & ~(member & exchanged)
    _check_chains(member, features, nan_left, left, right)
    return {
        "tree_begin": np.r_[starts, n].astype(np.int64),
        "kind": kind,
        "feature": features,
        "threshold": thresholds,
        "nan_left": nan_left.astype(np.uint8),
        "left": left,
        "right": right,
        "cover": covers,
        "set_begin": np.r_[0, np.cumsum(member)],
        "set_value": as_codes(thresholds[member]),
        **_outputs(attributes, index, trees[starts], ~inner),
    }


def chain_links(
    member: NDArray[np.bool_], feature: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns which nodes go on, with the node after them, a chain that asks for one set of categories.

    Args:
        member: (nodes,), whether the node asks whether a category is in a set.
        feature: (nodes,), that it asks for.
        left: (nodes,), places of the children of those that are.
        right: (nodes,), places of the children of those that are not.

    Returns:
        The place of the node after each, of any node where there is none; and whether the two are of one chain.
    """
    after = np.where(member, right, 0)
    return after, member & member[after] & (feature[after] == feature) & (left[after] == left)


def _check_chains(
    member: NDArray[np.bool_],
    feature: NDArray[np.int64],
    nan_left: NDArray[np.bool_],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> None:
    after, goes_on = chain_links(member, feature, left, right)
    wrong = goes_on & (nan_left[after] != nan_left)
    if wrong.any():
        raise InvalidModel(
            f"nodes_missing_value_tracks_true: node {int(np.argmax(wrong))} and the next of its chain of category "
            "splits differ, and whether ONNX Runtime then asks both depends on their codes"
        )


def as_codes(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns the categories that nodes ask for; a number that float32 cannot hold equals none, as NaN does."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    return np.where(nearest == values, nearest, np.float32(np.nan))


def _missing_true(attributes: Mapping[str, Any], n: int) -> NDArray[np.bool_]:
    flags = _array(attributes, "nodes_missing_value_tracks_true", np.int64)
    if len(flags) == 0:
        return np.zeros(n, np.bool_)
    _lengths(n, "nodes", nodes_missing_value_tracks_true=flags)
    if ((flags != 0) & (flags != 1)).any():
        raise InvalidModel("nodes_missing_value_tracks_true must hold 0 and 1 only")
    return flags.astype(np.bool_)


def _kinds(attributes: Mapping[str, Any], n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    modes = attributes.get("nodes_modes", [])
    if len(modes) != n:
        raise InvalidModel(f"nodes_modes has {len(modes)} entries for {n} nodes")
    unknown = set(modes) - set(_MODES)
    if unknown:
        raise InvalidModel(
            f"node modes {sorted(mode[:64] for mode in unknown)[:4]} are not supported; "
            f"supported: {sorted(mode.decode() for mode in _MODES)}"
        )
    kind = np.array([_MODES[mode][0] for mode in modes], np.uint8)
    return kind, np.array([_MODES[mode][1] for mode in modes], np.bool_)


def _outputs(
    attributes: Mapping[str, Any], index: _NodeIndex, tree_ids: NDArray[np.int64], is_leaf: NDArray[np.bool_]
) -> dict[str, Any]:
    """Returns the leaves' weights, by node, and the base values."""
    n_outputs = attributes.get("n_targets", 0)
    if not 1 <= n_outputs <= _MAX_TARGETS:
        raise InvalidModel(f"n_targets is {n_outputs}, must be from 1 to {_MAX_TARGETS}")
    base = _array(attributes, "base_values", np.float64)
    if len(base) not in (0, n_outputs):
        raise InvalidModel(f"n_targets is {n_outputs} with {len(base)} base values; as many or none are due")

    weights = _array(attributes, "target_weights", np.float64)
    outputs = _array(attributes, "target_ids", np.int64)
    trees = _array(attributes, "target_treeids", np.int64)
    ids = _array(attributes, "target_nodeids", np.int64)
    _lengths(len(weights), "weights", target_ids=outputs, target_treeids=trees, target_nodeids=ids)
    run_of = {tree: run for run, tree in enumerate(tree_ids.tolist())}
    owners = index.find(np.array([run_of.get(tree, -1) for tree in trees.tolist()], np.int64), ids, "target_nodeids")
    if n_outputs > 1 and base.any():
        _check_bases_count(base, owners, outputs, index, is_leaf)
    order = np.argsort(owners, kind="stable")
    begin = np.searchsorted(owners[order], np.arange(len(is_leaf) + 1)).astype(np.int64)
    counts = np.diff(begin)[is_leaf]
    if n_outputs == 1 and (counts != 1).any():
        raise InvalidModel(
            f"target_weights give a leaf {counts[counts != 1][0]} weights; with one target each leaf needs exactly one"
        )
    return {
        "n_outputs": n_outputs,
        "weight_begin": begin,
        "weight_output": outputs[order],
        "weight": weights[order],
        "base": base if len(base) else np.zeros(n_outputs),
    }


def _check_bases_count(
    base: NDArray[np.float64],
    owners: NDArray[np.int64],
    outputs: NDArray[np.int64],
    index: _NodeIndex,
    is_leaf: NDArray[np.bool_],
) -> None:
    n = len(base)
    known = (outputs >= 0) & (outputs < n)
    pairs = np.unique(owners[known] * n + outputs[known])  # of leaf and output
    cells, weighing = np.unique(index.run[pairs // n] * n + pairs % n, return_counts=True)  # of tree and output
    leaves = np.bincount(index.run, weights=is_leaf)
    always = cells[weighing == leaves[cells // n]] % n
    wrong = np.setdiff1d(np.flatnonzero(base), always)
    if len(wrong):
        raise InvalidModel(
            f"base_values: target {wrong[0]} has one, but no tree adds to it at each of its leaves; ONNX Runtime would "
            "leave the base value out of some rows"
        )


class _NodeIndex:
    """Finds a node's place from its tree and its id within the tree. ``run`` is the tree of each node."""

    def __init__(self, run: NDArray[np.int64], ids: NDArray[np.int64], n_trees: int) -> None:
        n = len(ids)
        self.run = run
        if ids.min() < 0 or ids.max() >= n:  # ONNX Runtime's own bound
            raise InvalidModel(f"nodes_nodeids must be from 0 to {n - 1}, as there are {n} nodes")
        self._order = np.lexsort((ids, run))
        self._keys = (run * (1 << 32) + ids)[self._order]
        if n > 1 and (self._keys[1:] == self._keys[:-1]).any():
            raise InvalidModel("a tree holds two nodes with one id (nodes_nodeids)")
        self._n_trees = n_trees

    def find(self, run: NDArray[np.int64], ids: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        valid = (run >= 0) & (run < self._n_trees) & (ids >= 0) & (ids < _ID_LIMIT)
        keys = np.where(valid, run * (1 << 32) + np.where(valid, ids, 0), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        wrong = ~valid | (self._keys[places] != keys)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise InvalidModel(f"{name}: entry {first} names node {ids[first]}, which its tree does not hold")
        return self._order[places].astype(np.int64)
