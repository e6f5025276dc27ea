"""What a foreign ONNX graph does: rows to one tree operator, and what becomes of its sums on the way to the outputs.

The graph is walked in its own order, and each value is known as one of three things: the rows, a score (the tree
operator's sums, moved and stretched by constants, then through a link), or a label. An operator that makes of these
anything else is refused by its name and place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from onnx import AttributeProto, TensorProto, numpy_helper

from xai_service.errors import InvalidModel
from xai_service.pack.onnx_ensembles import OPERATORS, Ensemble, read_ensemble

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from xai_service.model.manifest import Link
    from xai_service.types import Float64Array

_ML_DOMAIN = "ai.onnx.ml"
_ML_OPSETS = ([1], [2], [3], [4], [5])
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_LABELS = (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING)
_MAX_NODES = 256
_WAY_OUT = "pack the model that the file was made from, or export its trees alone"


@dataclass(frozen=True, slots=True)
class _Rows:
    """The input."""

    kind: int


@dataclass(frozen=True, slots=True)
class _Label:
    """The classifier's label."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What a value is, of the tree operator's sums: ``link(scale · sum + offset)``.

    Attributes:
        name: of the value, a tensor (rows, margins), or (rows, 2) of a classifier of two classes.
        scale, offset: float64 (margins,).
        link: from margin to this value.
    """

    name: str
    scale: Float64Array
    offset: Float64Array
    link: Link


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A graph, understood.

    Attributes:
        node: its tree operator; ``ensemble``: its trees.
        input_name, is_double, n_features: of the graph's input.
        score: what is served: the first output through a link, else the first that is a score.
        label: name of the operator's label, or ``None`` where it has none.
    """

    node: NodeProto
    ensemble: Ensemble
    input_name: str
    is_double: bool
    n_features: int
    score: Score
    label: str | None


def understand(model: ModelProto) -> Graph:
    """Returns what the graph does.

    Raises:
        InvalidModel: it does more than is known here; says which operator, where, and what to do.
    """
    reader = _Reader(model)
    for place, node in enumerate(model.graph.node):
        reader.read(place, node)
    return reader.graph()


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        if model.functions:
            raise InvalidModel(f"the file defines functions of its own, which are not read: {_WAY_OUT}")
        if len(graph.node) > _MAX_NODES:
            raise InvalidModel(f"the graph has {len(graph.node)} operators; at most {_MAX_NODES} are read: {_WAY_OUT}")
        if graph.sparse_initializer:
            raise InvalidModel("sparse constants are not supported")
        versions = [entry.version for entry in model.opset_import if entry.domain == _ML_DOMAIN]
        if versions not in _ML_OPSETS:
            raise InvalidModel(f"{_ML_DOMAIN} opset {versions} is not supported; one of 1 to 5 is")
        self._model = model
        self._constants = {str(tensor.name): _constant(tensor) for tensor in graph.initializer}
        self._values: dict[str, _Rows | _Label | Score] = {}
        self._found: tuple[NodeProto, Ensemble] | None = None
        self._input, self._kind, self.n_features = self._read_input()
        self._values[self._input] = _Rows(self._kind)

    def _read_input(self) -> tuple[str, int, int]:
        inputs = [value for value in self._model.graph.input if value.name not in self._constants]
        if len(inputs) != 1:
            raise InvalidModel(
                f"the graph has {len(inputs)} inputs; one, with all features side by side, is served: convert the "
                f"model with one input, or {_WAY_OUT}"
            )
        tensor = inputs[0].type.tensor_type
        if tensor.elem_type not in _FLOATS:
            raise InvalidModel(
                f"the input {inputs[0].name!r} holds {_type_name(tensor.elem_type)}; only FLOAT and DOUBLE are served: "
                "convert the model with a float input"
            )
        dimensions = tensor.shape.dim
        if len(dimensions) != 2 or dimensions[1].dim_value < 1:
            raise InvalidModel(
                f"the input {inputs[0].name!r} must be declared [rows, features] with a fixed number of features: "
                "convert the model with its number of columns"
            )
        return str(inputs[0].name), int(tensor.elem_type), int(dimensions[1].dim_value)

    def read(self, place: int, node: NodeProto) -> None:
        """Finds out what the node's outputs are."""
        name, domain = str(node.op_type), str(node.domain)
        if not node.output:
            self._refuse(place, node, "has no output")
        if domain in ("", "ai.onnx") and name == "Constant":
            values = [one for one in node.attribute if one.name == "value" and one.type == AttributeProto.TENSOR]
            if len(values) != 1:
                self._refuse(place, node, "is read with one tensor for its value only")
            self._constants[node.output[0]] = _constant(values[0].t)
            return
        operands = [self._operand(place, node, one) for one in node.input]
        is_ml = domain == _ML_DOMAIN
        if is_ml and name in OPERATORS:
            self._read_trees(place, node, operands)
            return
        score = [one for one in operands if isinstance(one, Score)]
        constants = [one for one in operands if isinstance(one, np.ndarray)]
        if is_ml and name == "ZipMap" and len(score) == 1:
            return  # a map from label to probability for each row; the tensor it is made of is read instead
        if is_ml or domain not in ("", "ai.onnx") or len(node.output) != 1:
            self._refuse(place, node, "is not known")
        if name in ("Identity", "Cast") and len(operands) == 1 and not constants:
            self._values[node.output[0]] = self._passed_on(place, node, operands[0])
        elif len(score) == 1 and len(score) + len(constants) == len(operands):
            self._values[node.output[0]] = self._computed(place, node, score[0], constants)
        else:
            self._refuse(place, node, "is not known")

    def _operand(self, place: int, node: NodeProto, name: str) -> _Rows | _Label | Score | Float64Array:
        value = self._values.get(name, self._constants.get(name))
        if value is None:
            self._refuse(place, node, f"reads {name[:64]!r}, which nothing before it computes in a way known here")
        return value

    def _passed_on(
        self, place: int, node: NodeProto, value: _Rows | _Label | Score | Float64Array
    ) -> _Rows | _Label | Score:
        if isinstance(value, np.ndarray):
            self._refuse(place, node, "is not known")
        if node.op_type == "Cast":
            to = next((one.i for one in node.attribute if one.name == "to"), 0)
            if to not in (_LABELS if isinstance(value, _Label) else _FLOATS):
                self._refuse(place, node, f"to {_type_name(to)} is not known")
            if isinstance(value, _Rows):
                return _Rows(int(to))
        return dataclasses.replace(value, name=node.output[0]) if isinstance(value, Score) else value

    def _read_trees(self, place: int, node: NodeProto, operands: list[_Rows | _Label | Score | Float64Array]) -> None:
        if self._found is not None:
            self._refuse(place, node, "is the second tree operator, and only one can be explained")
        if len(operands) != 1 or not isinstance(operands[0], _Rows):
            self._refuse(place, node, "reads what is not the graph's input")
        classifies = node.op_type == "TreeEnsembleClassifier"
        if len(node.output) != (2 if classifies else 1):
            self._refuse(place, node, f"has {len(node.output)} outputs")
        try:
            ensemble = read_ensemble(node)
        except InvalidModel as error:
            raise InvalidModel(f"operator {place} ({node.domain}:{node.op_type}): {error}") from error
        self._found = (node, ensemble)
        width = len(ensemble.raw.base)
        self._values[node.output[-1]] = Score(node.output[-1], np.ones(width), np.zeros(width), ensemble.link)
        if classifies:
            self._values[node.output[0]] = _Label()

    def _computed(self, place: int, node: NodeProto, score: Score, constants: list[Float64Array]) -> Score:
        """Returns what an operator on one score, and perhaps a constant, gives."""
        # Of two classes the tensor holds both, of which the score is the second: not to be computed with.
        both = self._found is not None and self._found[1].labels is not None and len(score.scale) == 1
        if constants:
            found = _with_constant(node, score, constants, may_move=score.link == "identity" and not both)
        else:
            found = None if both or score.link != "identity" else _linked(node, score)
        if found is None:
            self._refuse(place, node, "is not known here")
        return dataclasses.replace(found, name=node.output[0])

    def graph(self) -> Graph:
        """Returns what was read, once all nodes were."""
        if self._found is None:
            raise InvalidModel(f"the graph holds no tree ensemble ({', '.join(OPERATORS)}): nothing here is explained")
        node, ensemble = self._found
        outputs = [str(value.name) for value in self._model.graph.output]
        zipped = {one.output[0]: one.input[0] for one in self._model.graph.node if one.op_type == "ZipMap"}
        values = [self._values.get(zipped.get(name, name)) for name in outputs]
        scores = [value for value in values if isinstance(value, Score)]
        if not scores:
            raise InvalidModel(f"none of the outputs {outputs[:8]} is a score of the tree ensemble")
        score = next((one for one in scores if one.link != "identity"), scores[0])
        label = str(node.output[0]) if ensemble.labels is not None else None
        return Graph(node, ensemble, self._input, self._kind == TensorProto.DOUBLE, self.n_features, score, label)

    def _refuse(self, place: int, node: NodeProto, why: str) -> NoReturn:
        name = f" {node.name[:64]!r}" if node.name else ""
        raise InvalidModel(
            f"operator {place}{name} ({node.domain or 'ai.onnx'}:{str(node.op_type)[:64]}) {why}: what it computes "
            f"cannot be explained: {_WAY_OUT}"
        )


def _linked(node: NodeProto, score: Score) -> Score | None:
    """Returns a score that has seen no link after an operator on it alone, ``None`` where that is not known."""
    if node.op_type == "Neg":
        return dataclasses.replace(score, scale=-score.scale, offset=-score.offset)
    links: dict[str, Link] = {"Sigmoid": "logistic", "Exp": "exponential"}
    axis = next((one.i for one in node.attribute if one.name == "axis"), -1)
    if len(score.scale) > 1 and axis in (1, -1):
        links["Softmax"] = "softmax"
    link = links.get(str(node.op_type))
    return None if link is None else dataclasses.replace(score, link=link)


def _with_constant(node: NodeProto, score: Score, constants: list[Float64Array], *, may_move: bool) -> Score | None:
    """Returns the score after an operator on it and a constant, ``None`` where that is not known."""
    width, name = len(score.scale), str(node.op_type)
    shapes = ((), (1,), (width,), (1, 1), (1, width))  # the others would make it another shape
    if len(constants) != 1 or constants[0].shape not in shapes:
        return None
    value, is_first = constants[0].reshape(-1), node.input[0] == score.name
    if (value == 1).all() and (name == "Mul" or (name == "Div" and is_first)):
        return score
    if score.link == "exponential" and name == "Mul" and (value > 0).all():  # exp(m) · c = exp(m + ln c)
        return dataclasses.replace(score, offset=score.offset + np.log(value))
    if not may_move:
        return None
    scale, offset = score.scale, score.offset
    if name == "Add":
        offset = offset + value
    elif name == "Sub":
        scale, offset = (scale, offset - value) if is_first else (-scale, value - offset)
    elif name == "Mul":
        scale, offset = scale * value, offset * value
    elif name == "Div" and is_first and (value != 0).all():
        scale, offset = scale / value, offset / value
    else:
        return None
    return dataclasses.replace(score, scale=scale, offset=offset)


def _constant(tensor: TensorProto) -> Float64Array:
    """Returns a small constant's numbers; others stay unread, and NaN stands for them."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidModel(
            f"the constant {str(tensor.name)[:64]!r} is kept in another file; the model must be one file"
        )
    size = 1
    for dimension in tensor.dims:
        size *= max(0, dimension)
    if size > 1 << 16 or tensor.data_type not in _FLOATS:
        return np.full(1 << 17, np.nan)
    try:
        return np.asarray(numpy_helper.to_array(tensor), np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"the constant {str(tensor.name)[:64]!r} does not hold what it says: {error}") from error


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)) if kind in TensorProto.DataType.values() else f"type {kind}"
