"""``TreeEnsemble`` of ai.onnx.ml opset 5, which replaces the older tree operators, as raw trees.

Splits and leaves are numbered apart, each leaf weighs on one target, and a split may ask for a set of codes. There are
``nodes_hitrates``, but none for leaves: they are no covers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, TensorProto

from xai_service.errors import InvalidModel
from xai_service.model.tree_arrays import LEAF, LESS, LESS_EQUAL, MEMBER, REGRESSOR_ATTRIBUTES, as_codes
from xai_service.pack.raw_trees import RawTrees
from xai_service.pack.tensors import tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from xai_service.types import Float64Array, Int64Array

_PLACES = ("nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs", "nodes_featureids")
_MISSING = "nodes_missing_value_tracks_true"
ATTRIBUTES: Mapping[str, int] = {
    "n_targets": REGRESSOR_ATTRIBUTES["n_targets"],
    "aggregate_function": AttributeProto.INT,
    "post_transform": AttributeProto.INT,
    **dict.fromkeys((*_PLACES, _MISSING, "leaf_targetids", "tree_roots"), AttributeProto.INTS),
    **dict.fromkeys(
        ("leaf_weights", "membership_values", "nodes_modes", "nodes_splits", "nodes_hitrates"), AttributeProto.TENSOR
    ),
}
"""The operator's attributes, each with its type."""

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""What the numbers of ``aggregate_function`` and ``post_transform`` stand for."""

# nodes_modes, by number: (kind, whether the branches are exchanged)
_MODES = (
    (LESS_EQUAL, False), (LESS, False), (LESS, True), (LESS_EQUAL, True), (MEMBER, False), (MEMBER, True),
    (MEMBER, False),
)  # fmt: skip
_SET_MODE = 6
_MAX_OUTPUTS = 1 << 16


def read_opset_5(attributes: Mapping[str, Any]) -> RawTrees:
    """Returns the trees of a ``TreeEnsemble``.

    Args:
        attributes: of the types in `ATTRIBUTES`.

    Raises:
        InvalidModel: they do not fit together; names the attribute.
    """
    n_outputs = attributes.get("n_targets", 0)
    if not 1 <= n_outputs <= _MAX_OUTPUTS:
        raise InvalidModel(f"n_targets is {n_outputs}, must be from 1 to {_MAX_OUTPUTS}")
    modes = tensor_of(attributes, "nodes_modes", (TensorProto.UINT8,)).astype(np.int64)
    if (modes >= len(_MODES)).any():
        raise InvalidModel(f"nodes_modes holds {modes.max()}; 0 to {len(_MODES) - 1} are known")
    weight, target = tensor_of(attributes, "leaf_weights").astype(np.float64), _ints(attributes, "leaf_targetids")
    if len(weight) != len(target) or not len(weight):
        raise InvalidModel(f"leaf_targetids has {len(target)} entries for {len(weight)} leaf_weights")
    n = len(modes)
    splits, missing = tensor_of(attributes, "nodes_splits").astype(np.float64), _missing(attributes, modes)
    features = _ints(attributes, "nodes_featureids")
    for name, array in (("nodes_featureids", features), ("nodes_splits", splits), (_MISSING, missing)):
        _check_length(name, array, n)
    roots = _ints(attributes, "tree_roots")
    if not len(roots) or roots.min() < 0 or roots.max() >= n:
        raise InvalidModel(f"tree_roots must name nodes from 0 to {n - 1}, one at least")
    on_true, on_false, leaf = _children(attributes, n, len(weight))
    kind = np.array([kind for kind, _ in _MODES], np.int64)[modes]
    exchanged = np.array([exchanged for _, exchanged in _MODES])[modes]
    sets = _sets(attributes, modes, splits)
    end = len(leaf)
    return RawTrees(
        roots=roots,
        kind=_then(kind, LEAF, end).astype(np.uint8),
        feature=_then(features, 0, end),
        threshold=_then(splits, 0, end),
        nan_left=_then((missing ^ exchanged) & ~((kind == MEMBER) & exchanged), 0, end).astype(np.uint8),
        left=_then(np.where(exchanged, on_false, on_true), -1, end),
        right=_then(np.where(exchanged, on_true, on_false), -1, end),
        cover=np.empty(0),
        set_begin=np.r_[0, np.cumsum(_then(np.array([len(one) for one in sets], np.int64), 0, end))],
        set_value=as_codes(np.concatenate(sets)),
        weight_begin=np.r_[np.zeros(n, np.int64), np.arange(end + 1)],
        weight_output=target[leaf],
        weight=weight[leaf],
        base=np.zeros(n_outputs),
    )


def _then(of_splits: NDArray[Any], of_leaves: int, count: int) -> NDArray[Any]:
    """Returns an entry for each split, then one for each leaf."""
    return np.concatenate([of_splits, np.full(count, of_leaves, of_splits.dtype)])


def _ints(attributes: Mapping[str, Any], name: str) -> Int64Array:
    return np.array(attributes.get(name, []), np.int64)


def _check_length(name: str, array: NDArray[Any], n: int) -> None:
    if len(array) != n:
        raise InvalidModel(f"{name} has {len(array)} entries for {n} nodes")


def _missing(attributes: Mapping[str, Any], modes: Int64Array) -> NDArray[np.bool_]:
    flags = _ints(attributes, _MISSING) if attributes.get(_MISSING) else np.zeros_like(modes)
    if not np.isin(flags, (0, 1)).all():
        raise InvalidModel(f"{_MISSING} must hold 0 and 1 only")
    return np.asarray(flags.astype(np.bool_))


def _children(attributes: Mapping[str, Any], n: int, n_leaves: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Returns each split's true and false child, and which leaf each of the nodes from n on is.

    Each branch that ends in a leaf gets a node of its own for it: leaves may be shared, which changes nothing.
    """
    children: list[Int64Array] = []
    leaves: list[Int64Array] = []
    following = n
    for side in ("true", "false"):
        ids, is_leaf = (_ints(attributes, f"nodes_{side}{what}") for what in ("nodeids", "leafs"))
        _check_length(f"nodes_{side}nodeids", ids, n)
        _check_length(f"nodes_{side}leafs", is_leaf, n)
        if not np.isin(is_leaf, (0, 1)).all():
            raise InvalidModel(f"nodes_{side}leafs must hold 0 and 1 only")
        ends = is_leaf == 1
        if ((ids < 0) | (ids >= np.where(ends, n_leaves, n))).any():
            raise InvalidModel(f"nodes_{side}nodeids: an entry names a node or leaf that is not there")
        child = ids.copy()
        child[ends] = following + np.arange(ends.sum())
        following += int(ends.sum())
        children.append(child)
        leaves.append(ids[ends])
    return children[0], children[1], np.concatenate(leaves)


def _sets(attributes: Mapping[str, Any], modes: Int64Array, splits: Float64Array) -> list[Float64Array]:
    """Returns the codes that each node asks for: its split, or a set of ``membership_values``, which NaN part."""
    values = tensor_of(attributes, "membership_values").astype(np.float64)
    parts = (part[~np.isnan(part)] for part in np.split(values, np.flatnonzero(np.isnan(values)) + 1))
    sets = [part for part in parts if len(part)]
    places = np.flatnonzero(modes == _SET_MODE)
    if len(sets) != len(places):
        raise InvalidModel(f"membership_values holds {len(sets)} sets for {len(places)} nodes that ask for one")
    single = np.array([kind == MEMBER for kind, _ in _MODES])[modes] & (modes != _SET_MODE)
    codes = [splits[i : i + 1] if one else np.empty(0) for i, one in enumerate(single.tolist())]
    for place, one in zip(places.tolist(), sets, strict=True):
        codes[place] = one
    return codes
