"""Writes trees as ONNX: one ``TreeEnsembleRegressor`` that gives the margin, then the link in plain operators.

::

    input FP32 [n, features] ── TreeEnsembleRegressor ── margin FP32 [n, 1]
      binary classification:  margin ── Sigmoid ── p;  probabilities FP32 [n, 2] = [1 - p, p]
                                                       label INT64 [n] = p > threshold
      regression:             margin ── Identity or Exp ── prediction FP32 [n, 1]

Outputs stand in the order ``label, probabilities, margin`` or ``prediction, margin``. Nodes stand tree by tree, root
first; covers are in ``nodes_hitrates``, which ONNX Runtime ignores. ``metadata_props`` say the rest: see
`xai_service.model.agreement`. Equal models give equal bytes.

The ai.onnx.ml opset is 3, not 5: the newer ``TreeEnsemble`` has no place for the covers of leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

import xai_service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, ValueInfoProto

    from xai_service.model.manifest import Link
    from xai_service.pack.forest import Tree

_OPSET, _ML_OPSET, _IR_VERSION = 18, 3, 8


def write_onnx(
    trees: Sequence[Tree],
    *,
    base: float,
    link: Link,
    threshold: float | None,
    n_features: int,
    metadata: Mapping[str, str],
) -> bytes:
    """Returns the ONNX file.

    Args:
        trees: at least one.
        base: added to the sum of the leaves, in margin units.
        link: "logistic" makes a binary classifier, the others a regression.
        threshold: label 1 where its probability is greater, compared in float32; ``None`` for a regression.
        n_features: columns of the input.
        metadata: what the file says of itself.
    """
    nodes = [_ensemble(trees, base)]
    constants: list[TensorProto] = []
    if link == "logistic":
        if threshold is None:
            raise ValueError("a classifier needs a threshold")
        nodes += [
            helper.make_node("Sigmoid", ["margin"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
            helper.make_node("Greater", ["positive", "threshold"], ["above"]),
            helper.make_node("Cast", ["above"], ["label_column"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["label_column", "axes"], ["label"]),
        ]
        constants = [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("threshold", TensorProto.FLOAT, [], [threshold]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ]
        outputs = [_value("label", TensorProto.INT64, None), _value("probabilities", TensorProto.FLOAT, 2)]
    else:
        nodes.append(helper.make_node("Exp" if link == "exponential" else "Identity", ["margin"], ["prediction"]))
        outputs = [_value("prediction", TensorProto.FLOAT, 1)]
    graph = helper.make_graph(
        nodes,
        "xai",
        [_value("input", TensorProto.FLOAT, n_features)],
        [*outputs, _value("margin", TensorProto.FLOAT, 1)],
        constants,
    )
    model: ModelProto = helper.make_model(
        graph,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)],
        producer_name="xai-service",
        producer_version=xai_service.__version__,
    )
    helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString(deterministic=True))


def _value(name: str, kind: int, width: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None] if width is None else [None, width])


def _ensemble(trees: Sequence[Tree], base: float) -> NodeProto:
    lengths = [len(tree.left) for tree in trees]
    tree_ids = np.repeat(np.arange(len(trees)), lengths)
    node_ids = np.concatenate([np.arange(n) for n in lengths])
    left = _joined(tree.left for tree in trees)
    inclusive = _joined(tree.inclusive for tree in trees)
    is_leaf = left < 0
    modes = np.where(is_leaf, b"LEAF", np.where(inclusive, b"BRANCH_LEQ", b"BRANCH_LT"))

    node = NodeProto(op_type="TreeEnsembleRegressor", domain="ai.onnx.ml", input=["input"], output=["margin"])
    node.attribute.extend(
        [
            AttributeProto(name="aggregate_function", type=AttributeProto.STRING, s=b"SUM"),
            AttributeProto(name="post_transform", type=AttributeProto.STRING, s=b"NONE"),
            AttributeProto(name="n_targets", type=AttributeProto.INT, i=1),
            _floats("base_values", np.array([base])),
            _ints("nodes_treeids", tree_ids),
            _ints("nodes_nodeids", node_ids),
            AttributeProto(name="nodes_modes", type=AttributeProto.STRINGS, strings=modes.tolist()),
            _ints("nodes_featureids", _joined(tree.feature for tree in trees)),
            _floats("nodes_values", _joined(tree.threshold for tree in trees)),
            _ints("nodes_truenodeids", np.maximum(left, 0)),
            _ints("nodes_falsenodeids", np.maximum(_joined(tree.right for tree in trees), 0)),
            _ints("nodes_missing_value_tracks_true", _joined(tree.missing_left for tree in trees)),
            _floats("nodes_hitrates", _joined(tree.cover for tree in trees)),
            _ints("target_treeids", tree_ids[is_leaf]),
            _ints("target_nodeids", node_ids[is_leaf]),
            _ints("target_ids", np.zeros(is_leaf.sum())),
            _floats("target_weights", _joined(tree.leaf for tree in trees)[is_leaf]),
        ]
    )
    return node


def _joined(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(arrays))


# onnx.helper looks at every element to guess an attribute's type: minutes for millions of nodes.
def _ints(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.INTS, ints=values.astype(np.int64).tolist())


def _floats(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.FLOATS, floats=values.astype(np.float32).tolist())
