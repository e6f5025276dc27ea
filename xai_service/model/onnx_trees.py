"""Reads the trees of an ONNX file into a validated forest.

The file is untrusted. What is accepted is narrow on purpose: what is explained must be what ONNX Runtime serves, so the
graph must feed its one input straight into one ``TreeEnsembleRegressor`` (ai.onnx.ml, opset 1 or 3) that sums float32
weights. Anything this reader cannot prove it reads as ONNX Runtime does is refused with the reason. How its
attributes are read stands in `xai_service.model.tree_arrays`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from xai_service import _treeshap
from xai_service.errors import InvalidModel
from xai_service.model.model_file import MAX_MODEL_BYTES, is_pickle
from xai_service.model.tree_arrays import REGRESSOR_ATTRIBUTES, raw_forest, read_attributes

if TYPE_CHECKING:
    from collections.abc import Sequence


_ML_DOMAIN = "ai.onnx.ml"


def parse_model(data: bytes) -> onnx.ModelProto:
    """Returns the parsed file.

    Raises:
        InvalidModel: not an ONNX file, a pickle, or larger than `MAX_MODEL_BYTES`.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise InvalidModel(f"the model file has {len(data)} bytes; at most {MAX_MODEL_BYTES} are accepted")
    if is_pickle(data):
        raise InvalidModel(
            "not an ONNX file but a Python pickle, and pickles are never loaded, as that would run the code in them"
        )
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
        return _treeshap.Forest(n_features=n_features, player=player, **raw_forest(attributes))
    except _treeshap.InvalidForest as error:
        raise InvalidModel(f"the tree ensemble is malformed: {error}") from error


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
    values = read_attributes(node, REGRESSOR_ATTRIBUTES, " (float32 trees only)")
    for name, supported in (("post_transform", b"NONE"), ("aggregate_function", b"SUM")):
        if values.get(name, supported) != supported:
            raise InvalidModel(f"{name} {values[name][:64]!r} is not supported, only {supported.decode()} is")
    return values
