"""Writes a model as ONNX: one ``TreeEnsembleRegressor`` that gives the margins, then the link in plain operators.

::

    input FP32 [n, features] ── TreeEnsembleRegressor ── margin FP32 [n, outputs]
      binary:      margin ── link ── p;  probabilities FP32 [n, 2] = [1 - p, p],  label INT64 [n] = p > threshold
      multi-class: margin ── link ── probabilities FP32 [n, classes];  label INT64 [n] = argmax of the margins
      multi-label: margin ── link ── probabilities FP32 [n, classes]
      the others:  margin ── link ── prediction FP32 [n, outputs]

A linear model's margins come from its linear part, and trees are beside it only where values are looked up:
`xai_service.model.linear_part` draws it.

Outputs stand in the order ``label, probabilities, margin`` or ``prediction, margin``. Nodes stand tree by tree, root
first; covers, if there are any, are in ``nodes_hitrates``, which ONNX Runtime ignores. ``metadata_props`` say the rest:
see `xai_service.model.agreement`. Equal models give equal bytes.

A split by a set of codes is a chain of ``BRANCH_EQ``, one for each code, that share their true child (ADR 8). The
ai.onnx.ml opset is 3, not 5, which has sets: the newer ``TreeEnsemble`` has no place for the covers of leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

import xai_service
from xai_service.model.linear_part import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, ValueInfoProto

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.additive import Line
    from xai_service.pack.asked import Asked
    from xai_service.pack.forest import Tree
    from xai_service.types import Float64Array

_OPSET, _ML_OPSET, _IR_VERSION = 18, 3, 8


def write_onnx(
    trees: Sequence[Tree],
    *,
    base: Float64Array,
    task: Task,
    link: Link,
    link_scale: float,
    threshold: float | None,
    n_features: int,
    metadata: Mapping[str, str],
    line: Line | None = None,
    asked: Asked | None = None,
) -> bytes:
    """Returns the ONNX file.

    Args:
        trees: at least one for each output; none or some beside a linear part.
        base: float64 (outputs,), added to the sum of the leaves, in margin units.
        task: which outputs the graph has; see the module.
        link: from margins to probabilities or predictions.
        link_scale: what a logistic or one_vs_all link multiplies the margin by.
        threshold: of a binary classifier: label 1 where its probability is greater, compared in float32.
        n_features: columns of the input.
        metadata: what the file says of itself.
        line: of a linear model, its linear part.
        asked: of a model that is neither, its graph up to the margin.
    """
    core, constants = _core(trees, base, line, asked)
    opsets = {"": _OPSET, "ai.onnx.ml": _ML_OPSET} if asked is None else asked.opsets
    graph = _Links(len(base))
    if task == "binary_classification":
        if threshold is None:
            raise ValueError("a binary classifier needs a threshold")
        graph.binary(link, link_scale, threshold)
    elif task in ("multiclass_classification", "multilabel_classification"):
        if task == "multiclass_classification":
            graph.label()
        graph.apply(link, link_scale, "probabilities")
        graph.output("probabilities", TensorProto.FLOAT, graph.width)
    else:
        graph.apply(link, link_scale, "prediction")
        graph.output("prediction", TensorProto.FLOAT, graph.width)
    graph.output("margin", TensorProto.FLOAT, graph.width)
    model: ModelProto = helper.make_model(
        helper.make_graph(
            [*core, *graph.nodes],
            "xai",
            [_value("input", TensorProto.FLOAT, n_features)],
            graph.outputs,
            [*constants, *graph.constants],
        ),
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        producer_name="xai-service",
        producer_version=xai_service.__version__,
    )
    helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString(deterministic=True))


def _value(name: str, kind: int, width: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None] if width is None else [None, width])


class _Links:
    """What follows the trees."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.outputs: list[ValueInfoProto] = []

    def output(self, name: str, kind: int, width: int | None) -> None:
        self.outputs.append(_value(name, kind, width))

    def apply(self, link: Link, scale: float, output: str) -> None:
        """Puts the margins through the link."""
        source = "margin"
        if scale != 1:
            self._number("scale", scale)
            self._node("Mul", [source, "scale"], "scaled")
            source = "scaled"
        if link == "softmax":
            self._node("Softmax", [source], output, axis=1)
        else:
            operators = {"identity": "Identity", "exponential": "Exp", "logistic": "Sigmoid", "one_vs_all": "Sigmoid"}
            self._node(operators[link], [source], output)

    def binary(self, link: Link, scale: float, threshold: float) -> None:
        self.apply(link, scale, "positive")
        self._number("one", 1.0)
        self._node("Sub", ["one", "positive"], "negative")
        self._node("Concat", ["negative", "positive"], "probabilities", axis=1)
        self._number("threshold", threshold)
        self._node("Greater", ["positive", "threshold"], "above")
        self._node("Cast", ["above"], "label_column", to=TensorProto.INT64)
        self.constants.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
        self._node("Squeeze", ["label_column", "axes"], "label")
        self.output("label", TensorProto.INT64, None)
        self.output("probabilities", TensorProto.FLOAT, 2)

    def label(self) -> None:
        """Of the margins, not the probabilities: those of two classes may both be 1 in float32."""
        self._node("ArgMax", ["margin"], "label", axis=1, keepdims=0)
        self.output("label", TensorProto.INT64, None)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def _number(self, name: str, value: float) -> None:
        self.constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))


def _core(
    trees: Sequence[Tree], base: Float64Array, line: Line | None, asked: Asked | None
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Returns what computes the margin: operators and constants."""
    if asked is not None:
        return list(asked.nodes), list(asked.constants)
    return ([_ensemble(trees, base, "margin")], []) if line is None else _linear(line, trees, base)


def _linear(line: Line, trees: Sequence[Tree], base: Float64Array) -> tuple[list[NodeProto], list[TensorProto]]:
    mean = line.mean.astype(np.float32)
    tensors: dict[str, NDArray[Any]] = {"mean": mean, "rest": line.mean - mean, "weights": line.weights, "base": base}
    if line.fill is not None:
        tensors["fill"] = line.fill
    nodes = [
        _ensemble(trees, np.zeros_like(base), output)
        if operator == "TreeEnsembleRegressor"
        else helper.make_node(operator, inputs, [output])
        for operator, inputs, output in layout(has_fill=line.fill is not None, has_trees=bool(trees))
    ]
    return nodes, [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tensors.items()]


def _ensemble(trees: Sequence[Tree], base: Float64Array, output: str) -> NodeProto:
    laid = [_laid_out(tree) for tree in trees]
    lengths = [len(one["nodes_nodeids"]) for one in laid]
    tree_ids = np.repeat(np.arange(len(trees)), lengths)
    parts = zip(*(_weights(tree, t) for t, tree in enumerate(trees)), strict=True)
    of_tree, of_node, of_output, weights = (_joined(part) for part in parts)

    def joined(name: str) -> NDArray[Any]:
        return _joined(one[name] for one in laid)

    node = NodeProto(op_type="TreeEnsembleRegressor", domain="ai.onnx.ml", input=["input"], output=[output])
    node.attribute.extend(
        [
            AttributeProto(name="aggregate_function", type=AttributeProto.STRING, s=b"SUM"),
            AttributeProto(name="post_transform", type=AttributeProto.STRING, s=b"NONE"),
            AttributeProto(name="n_targets", type=AttributeProto.INT, i=len(base)),
            _floats("base_values", base),
            _ints("nodes_treeids", tree_ids),
            _ints("nodes_nodeids", joined("nodes_nodeids")),
            AttributeProto(name="nodes_modes", type=AttributeProto.STRINGS, strings=joined("nodes_modes").tolist()),
            _ints("nodes_featureids", joined("nodes_featureids")),
            _floats("nodes_values", joined("nodes_values")),
            _ints("nodes_truenodeids", joined("nodes_truenodeids")),
            _ints("nodes_falsenodeids", joined("nodes_falsenodeids")),
            _ints("nodes_missing_value_tracks_true", joined("nodes_missing_value_tracks_true")),
            *([_floats("nodes_hitrates", joined("nodes_hitrates"))] if len(trees[0].cover) else []),
            _ints("target_treeids", of_tree),
            _ints("target_nodeids", of_node),
            _ints("target_ids", of_output),
            _floats("target_weights", weights),
        ]
    )
    return node


def _first_ids(tree: Tree) -> NDArray[np.int64]:
    """Returns the id of each node in the file, where a set of k codes takes k nodes: of those, the first."""
    return np.cumsum(np.maximum(tree.set_sizes, 1)) - np.maximum(tree.set_sizes, 1)


def _laid_out(tree: Tree) -> dict[str, NDArray[Any]]:
    """Returns the tree's nodes as the file holds them, each set as its chain."""
    length = np.maximum(tree.set_sizes, 1)
    own = np.repeat(np.arange(len(length)), length)  # the node that each of the file's nodes is, or is a part of
    first = _first_ids(tree)
    ids = np.arange(len(own))
    is_leaf, is_set = (tree.left < 0)[own], (tree.set_sizes > 0)[own]
    values = tree.threshold[own]
    values[is_set] = tree.set_value
    # Each link of a chain but the last goes on to the next where its code is not the one.
    last = ids == (first + length - 1)[own]
    modes = np.where(is_set, b"BRANCH_EQ", np.where(tree.inclusive[own], b"BRANCH_LEQ", b"BRANCH_LT"))
    return {
        "nodes_nodeids": ids,
        "nodes_modes": np.where(is_leaf, b"LEAF", modes),
        "nodes_featureids": tree.feature[own],
        "nodes_values": values,
        "nodes_truenodeids": np.where(is_leaf, 0, first[tree.left[own]]),
        "nodes_falsenodeids": np.where(is_leaf, 0, np.where(last, first[tree.right[own]], ids + 1)),
        "nodes_missing_value_tracks_true": tree.missing_left[own],
        "nodes_hitrates": tree.cover[own] if len(tree.cover) else tree.cover,
    }


def _weights(tree: Tree, number: int) -> tuple[NDArray[Any], ...]:
    """Returns tree, node, output and weight of each weight of the tree's leaves."""
    leaves = np.flatnonzero(tree.left < 0)
    width = len(tree.outputs)
    return (
        np.full(len(leaves) * width, number),
        np.repeat(_first_ids(tree)[leaves], width),
        np.tile(tree.outputs, len(leaves)),
        tree.leaf[leaves].ravel(),
    )


def _joined(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(arrays))


# onnx.helper looks at every element to guess an attribute's type: minutes for millions of nodes.
def _ints(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.INTS, ints=values.astype(np.int64).tolist())


def _floats(name: str, values: NDArray[Any]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.FLOATS, floats=values.astype(np.float32).tolist())
