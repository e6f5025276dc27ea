"""Reads the trees of an ONNX file into a validated forest.

The file is untrusted. What is accepted is narrow on purpose: what is explained must be what ONNX Runtime serves, so the
graph must feed its one input straight into one ``TreeEnsembleRegressor`` (ai.onnx.ml, opset 1 or 3) that sums float32
weights. Anything this reader cannot prove it reads as ONNX Runtime does is refused with the reason.

With one target, ONNX Runtime takes a leaf's first weight and, where there is none, the leaf's threshold: such a file
must give each leaf exactly one. Missing-value flags other than 0 and 1 and tree ids beyond 32 bits are read differently
by others, so they are refused too. With several targets, ONNX Runtime drops a target's base value on rows that reach no
weight of that target: such a target must have a tree whose leaves all weigh on it.

A split on one category is ``BRANCH_EQ`` or ``BRANCH_NEQ``; the kernel takes chains of them for sets.

NaN: ONNX Runtime compares first (false for NaN), then takes the true branch if ``nodes_missing_value_tracks_true`` says
so. ``>`` and ``>=`` are read as ``<=`` and ``<`` with the branches exchanged, NaN's route with them; ``!=`` likewise as
``==``, but holds for NaN, which so takes the true branch whatever the flag says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper

from xai_service import _treeshap
from xai_service.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_MODEL_BYTES = 1 << 30

_LEAF, _LESS, _LESS_EQUAL, _MEMBER = 0, 1, 2, 3
# mode: (kind, whether the branches are exchanged)
_MODES = {
    b"LEAF": (_LEAF, False),
    b"BRANCH_LT": (_LESS, False),
    b"BRANCH_LEQ": (_LESS_EQUAL, False),
    b"BRANCH_GTE": (_LESS, True),
    b"BRANCH_GT": (_LESS_EQUAL, True),
    b"BRANCH_EQ": (_MEMBER, False),
    b"BRANCH_NEQ": (_MEMBER, True),
}
_ML_DOMAIN = "ai.onnx.ml"
_ID_LIMIT = 1 << 31  # ids are 32 bits wide in ONNX Runtime
_MAX_TARGETS = 1 << 16  # the kernel's own bound
_ATTRIBUTES = {
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


def parse_model(data: bytes) -> onnx.ModelProto:
    """Returns the parsed file.

    Raises:
        InvalidModel: not an ONNX file, or larger than `MAX_MODEL_BYTES`.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise InvalidModel(f"the model file has {len(data)} bytes; at most {MAX_MODEL_BYTES} are accepted")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InvalidModel(f"not an ONNX file: {error}") from error
    if not model.graph.node:
        raise InvalidModel("not an ONNX file, or one with an empty graph")
    return model


def read_forest(model: onnx.ModelProto, players: Sequence[int] | None = None) -> _treeshap.Forest:
    """Returns the forest whose margin is the output of the graph's tree ensemble.

    Args:
        model: the parsed file.
        players: for each feature the player that it is part of, numbered from 0; ``None``: each its own.

    Raises:
        InvalidModel: the graph is not a tree ensemble on the raw input, or its trees are malformed.
        ValueError: ``players`` are not as many as the features.
    """
    node = _ensemble_node(model)
    attributes = _attributes(node)
    n_features = _input_width(model)
    if players is not None and len(players) != n_features:
        raise ValueError(f"players are {len(players)}; the model takes {n_features} features")
    try:
        player = np.array([] if players is None else players, np.int64)
        return _treeshap.Forest(n_features=n_features, player=player, **_raw_forest(attributes))
    except _treeshap.InvalidForest as error:
        raise InvalidModel(f"the tree ensemble is malformed: {error}") from error


def margin_output(model: onnx.ModelProto) -> str:
    """Returns the name of the value that the tree ensemble computes."""
    return str(_ensemble_node(model).output[0])


def _ensemble_node(model: onnx.ModelProto) -> onnx.NodeProto:
    graph = model.graph
    # Text that is not UTF-8 comes out of the parser as bytes, hence str().
    ensembles = [node for node in graph.node if str(node.op_type).startswith("TreeEnsemble")]
    if len(ensembles) != 1:
        raise InvalidModel(f"the graph holds {len(ensembles)} tree ensembles; exactly one can be explained")
    node = ensembles[0]
    if node.domain != _ML_DOMAIN or node.op_type != "TreeEnsembleRegressor":
        raise InvalidModel(
            f"{node.domain}:{node.op_type} is not supported, only {_ML_DOMAIN}:TreeEnsembleRegressor is: "
            "pack the native model with `xai pack`"
        )
    if model.functions:
        raise InvalidModel("the file defines functions of its own, which could stand in for the tree ensemble")
    versions = [entry.version for entry in model.opset_import if entry.domain == _ML_DOMAIN]
    if versions not in ([1], [2], [3], [4]):
        raise InvalidModel(f"{_ML_DOMAIN} opset {versions} is not supported; 1 to 4 are")
    if len(graph.input) != 1 or len(node.input) != 1 or node.input[0] != graph.input[0].name or len(node.output) != 1:
        raise InvalidModel("the tree ensemble must read the graph's one input directly, and have one output")
    readers = [other.op_type for other in graph.node if graph.input[0].name in other.input and other is not node]
    if readers or graph.input[0].name in _initializers(graph):
        raise InvalidModel(f"only the tree ensemble may read the graph's input; so do: {readers or 'an initializer'}")
    return node


def _initializers(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}


def _input_width(model: onnx.ModelProto) -> int:
    tensor = model.graph.input[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in TensorProto.DataType.values() else "?"
        raise InvalidModel(f"the graph's input holds {name}, only FLOAT is supported")
    dimensions = tensor.shape.dim
    if len(dimensions) != 2 or not dimensions[1].HasField("dim_value") or dimensions[1].dim_value < 1:
        raise InvalidModel("the graph's input must be declared [rows, features] with a fixed number of features")
    return int(dimensions[1].dim_value)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name not in _ATTRIBUTES:
            raise InvalidModel(f"attribute {name[:64]!r} of the tree ensemble is not supported (float32 trees only)")
        if name in values:
            raise InvalidModel(f"attribute {name} of the tree ensemble stands twice")
        if attribute.type != _ATTRIBUTES[name] or attribute.ref_attr_name:
            raise InvalidModel(f"{name} must be of type {AttributeProto.AttributeType.Name(_ATTRIBUTES[name])}")
        values[name] = helper.get_attribute_value(attribute)
    for name, supported in (("post_transform", b"NONE"), ("aggregate_function", b"SUM")):
        if values.get(name, supported) != supported:
            raise InvalidModel(f"{name} {values[name][:64]!r} is not supported, only {supported.decode()} is")
    return values


def _array(attributes: dict[str, Any], name: str, dtype: type) -> NDArray[Any]:
    return np.array(attributes.get(name, []), dtype)


def _lengths(n: int, unit: str, **arrays: NDArray[Any]) -> None:
    for name, array in arrays.items():
        if len(array) != n:
            raise InvalidModel(f"{name} has {len(array)} entries for {n} {unit}")


def _raw_forest(attributes: dict[str, Any]) -> dict[str, Any]:
    """Returns what `_treeshap.Forest` takes, apart from ``n_features``; nodes stay in the file's order."""
    trees = _array(attributes, "nodes_treeids", np.int64)
    n = len(trees)
    if n == 0:
        raise InvalidModel("the tree ensemble has no node")
    if trees.min() < -_ID_LIMIT or trees.max() >= _ID_LIMIT:
        raise InvalidModel("nodes_treeids must fit 32 bits")
    names = ("nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")
    ids, features, on_true, on_false = (_array(attributes, name, np.int64) for name in names)
    thresholds = _array(attributes, "nodes_values", np.float32)
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
    inner, member = kind != _LEAF, kind == _MEMBER
    true_index, false_index = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    true_index[inner] = index.find(run[inner], on_true[inner], "nodes_truenodeids")
    false_index[inner] = index.find(run[inner], on_false[inner], "nodes_falsenodeids")
    return {
        "tree_begin": np.r_[starts, n].astype(np.int64),
        "kind": kind,
        "feature": features,
        "threshold": thresholds.astype(np.float64),
        "nan_left": ((missing_true ^ exchanged) & ~(member & exchanged)).astype(np.uint8),
        "left": np.where(exchanged, false_index, true_index),
        "right": np.where(exchanged, true_index, false_index),
        "cover": covers,
        "set_begin": np.r_[0, np.cumsum(member)],
        "set_value": thresholds[member],
        **_outputs(attributes, index, trees[starts], ~inner),
    }


def _missing_true(attributes: dict[str, Any], n: int) -> NDArray[np.bool_]:
    flags = _array(attributes, "nodes_missing_value_tracks_true", np.int64)
    if len(flags) == 0:
        return np.zeros(n, np.bool_)
    _lengths(n, "nodes", nodes_missing_value_tracks_true=flags)
    if ((flags != 0) & (flags != 1)).any():
        raise InvalidModel("nodes_missing_value_tracks_true must hold 0 and 1 only")
    return flags.astype(np.bool_)


def _kinds(attributes: dict[str, Any], n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
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
    attributes: dict[str, Any], index: _NodeIndex, tree_ids: NDArray[np.int64], is_leaf: NDArray[np.bool_]
) -> dict[str, Any]:
    """Returns the leaves' weights, by node, and the base values."""
    n_outputs = attributes.get("n_targets", 0)
    if not 1 <= n_outputs <= _MAX_TARGETS:
        raise InvalidModel(f"n_targets is {n_outputs}, must be from 1 to {_MAX_TARGETS}")
    base = _array(attributes, "base_values", np.float32)
    if len(base) not in (0, n_outputs):
        raise InvalidModel(f"n_targets is {n_outputs} with {len(base)} base values; as many or none are due")

    weights = _array(attributes, "target_weights", np.float32)
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
        "weight": weights[order].astype(np.float64),
        "base": base.astype(np.float64) if len(base) else np.zeros(n_outputs),
    }


def _check_bases_count(
    base: NDArray[np.float32],
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
