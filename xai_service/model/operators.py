"""Which operators a model that is only asked may hold, and how much they compute: a file is untrusted.

No operator here runs others (Loop, Scan, If), draws numbers, or makes much of little. Each value's shape is followed
through the graph, with the number of rows as a symbol; what the values of a row take together is bounded, and so is
the work. Whatever is not known here is refused by its name and place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from xai_service.errors import InvalidModel
from xai_service.model.operator_rules import ML, RULES, TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xai_service.model.operator_rules import Shape

MAX_VALUES = 1 << 20  # that are computed for one row, all together
MAX_WORK = 1 << 28  # multiplications and the like, for one row
_MAX_CONSTANTS = 1 << 26  # values computed of constants alone
_MAX_NODES = 512
_MAX_RANK = 6
_OPSETS = range(13, 22)
_ML_OPSETS = range(1, 5)


@dataclass(frozen=True, slots=True)
class Graph:
    """``n_features`` of the input, the operators that compute ``margin``, and the names that belong to them.

    Attributes:
        n_features: columns of the input.
        n_outputs: margins of a row.
        n_nodes: the operators up to ``margin``; those after it are links.
        constants: names of the constants that they read.
        values: computed for one row, all together.
    """

    n_features: int
    n_outputs: int
    n_nodes: int
    constants: frozenset[str]
    values: int


def read_graph(model: onnx.ModelProto) -> Graph:
    """Returns what the graph computes ``margin`` by.

    Raises:
        InvalidModel: it holds an operator that is not known, too much is computed, or it is laid out otherwise.
    """
    graph = model.graph
    _check_versions(model)
    n_nodes = 1 + next((i for i, node in enumerate(graph.node) if "margin" in node.output), -1)
    if not 0 < n_nodes <= _MAX_NODES:
        raise InvalidModel(f"the graph must compute margin by at most {_MAX_NODES} operators")
    if [value.name for value in graph.input] != ["input"]:
        raise InvalidModel("the graph must have one input, named input")
    dimensions = graph.input[0].type.tensor_type.shape.dim
    if graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT or len(dimensions) != 2:
        raise InvalidModel("the graph's input must be declared FLOAT [rows, features]")
    n_features = int(dimensions[1].dim_value)
    if n_features < 1:
        raise InvalidModel("the graph's input must be declared with a fixed number of features")
    follower = Follower({str(one.name): one for one in graph.initializer}, (-1, n_features))
    for place, node in enumerate(graph.node[:n_nodes]):
        follower.follow(place, node)
    shape = follower.shapes["margin"]
    if len(shape) != 2 or shape[0] != -1 or shape[1] < 1:
        raise InvalidModel(f"margin has shape {shape}, where (rows, outputs) is due")
    inner = follower.shapes.keys() - {"margin"}
    for node in graph.node[n_nodes:]:
        touched = inner & {*node.input, *node.output}
        if touched or "margin" in node.output:
            raise InvalidModel(f"{sorted(touched)[:1]} belongs to what computes margin, and a link may not touch it")
    return Graph(n_features, shape[1], n_nodes, frozenset(follower.read), follower.values)


def _check_versions(model: onnx.ModelProto) -> None:
    if model.functions:
        raise InvalidModel("the file defines functions of its own, which could stand in for an operator")
    if model.graph.sparse_initializer:
        raise InvalidModel("sparse constants are not supported")
    for entry in model.opset_import:
        taken: Mapping[str, range] = {"": _OPSETS, "ai.onnx": _OPSETS, ML: _ML_OPSETS, "com.microsoft": range(1, 2)}
        if entry.version not in taken.get(str(entry.domain), ()):
            raise InvalidModel(f"opset {entry.version} of {str(entry.domain)[:64] or 'ai.onnx'!r} is not supported")


class Follower:
    """Follows shapes, and counts values and work.

    Attributes:
        shapes: of every value computed, the input and constants read.
        read: names of the constants read; ``values``: computed for one row; ``work``: done for it.
    """

    def __init__(self, constants: Mapping[str, TensorProto], shape: Shape) -> None:
        self._constants = constants
        self._held: dict[str, TensorProto] = {}
        self.shapes: dict[str, Shape] = {"input": shape}
        self.read: set[str] = set()
        self.values = self.work = self._of_constants = 0
        self._place, self.node = 0, onnx.NodeProto()

    def follow(self, place: int, node: onnx.NodeProto) -> None:
        """Finds the shapes of the node's outputs."""
        self._place, self.node = place, node
        name = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)
        rule = RULES.get(name)
        if rule is None:
            self.refuse("is not among those that may be served")
        for attribute in node.attribute:
            if attribute.type not in _ATTRIBUTES:
                self.refuse(f"has the attribute {str(attribute.name)[:64]!r}, of a kind that may not be served")
        inputs = [self._shape(str(one)) for one in node.input if one]
        try:
            shapes = rule(self, inputs)
        except (IndexError, ValueError, OverflowError, TypeError) as error:
            self.refuse(f"cannot be followed: {error}")
        outputs = list(node.output)
        if not outputs or len(outputs) > len(shapes):
            self.refuse(f"has {len(outputs)} outputs")
        for output, shape in zip(outputs, shapes, strict=False):
            self._note(str(output), shape)

    def _shape(self, name: str) -> Shape:
        if name in self._constants:
            self.read.add(name)
            if name not in self.shapes:
                tensor = self._constants[name]
                self.shapes[name] = self._checked(tensor)
                self._held[name] = tensor
        if name not in self.shapes:
            self.refuse(f"reads {name[:64]!r}, which nothing before it computes")
        return self.shapes[name]

    def _checked(self, tensor: TensorProto) -> Shape:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            self.refuse("reads a constant that is kept in another file")
        if tensor.data_type not in TYPES or len(tensor.dims) > _MAX_RANK or any(one < 0 for one in tensor.dims):
            self.refuse("reads a constant of a kind that may not be served")
        if math.prod(tensor.dims) > _MAX_CONSTANTS:
            self.refuse("reads a constant that is too large")
        return tuple(int(one) for one in tensor.dims)

    def _note(self, name: str, shape: Shape) -> None:
        if not name:
            return
        if name in self.shapes or name in self._constants:
            self.refuse(f"computes {name[:64]!r} again")
        if len(shape) > _MAX_RANK or sum(one < 0 for one in shape) > 1:
            self.refuse("computes more the more rows there are, for each of them")
        size = abs(math.prod(shape))
        if any(one < 0 for one in shape):
            self.values += size
            self.work += size
        else:
            self._of_constants += size
        if self.values > MAX_VALUES or self._of_constants > _MAX_CONSTANTS:
            self.refuse(f"computes too much: more than {MAX_VALUES} values for a row, with those before it")
        self.add_work(0)
        self.shapes[name] = shape

    def add_work(self, work: int) -> None:
        """Notes work for each row."""
        self.work += work
        if self.work > MAX_WORK:
            self.refuse(f"computes too much: more than {MAX_WORK} steps for a row, with those before it")

    def refuse(self, why: str) -> NoReturn:
        """Raises `InvalidModel`, with the operator's name and place."""
        node = self.node
        label = f" {str(node.name)[:64]!r}" if node.name else ""
        raise InvalidModel(
            f"operator {self._place}{label} ({str(node.domain)[:64] or 'ai.onnx'}:{str(node.op_type)[:64]}) {why}"
        )

    def attribute(self, name: str, default: Any = None) -> Any:
        """Returns an attribute's value, or the default."""
        found = [one for one in self.node.attribute if one.name == name]
        return helper.get_attribute_value(found[0]) if found else default

    def constant(self, place: int, name: str = "") -> list[int] | None:
        """Returns whole numbers that an input holds, or an attribute in older opsets; ``None`` where neither is."""
        if place < len(self.node.input) and self.node.input[place]:
            tensor = self._held.get(str(self.node.input[place]))
            if tensor is None or tensor.data_type != TensorProto.INT64 or math.prod(tensor.dims) > _MAX_RANK:
                self.refuse(f"has an input {place} that is no constant of a few whole numbers")
            return [int(one) for one in np.asarray(numpy_helper.to_array(tensor)).ravel()]
        given = self.attribute(name) if name else None
        return None if given is None else [int(one) for one in np.atleast_1d(given)]

    def hold(self, tensor: TensorProto) -> Shape:
        """Notes a constant that stands in the graph itself."""
        shape = self._checked(tensor)
        self._held[str(self.node.output[0])] = tensor
        return shape


_ATTRIBUTES = (
    AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.STRING,
    AttributeProto.STRINGS, AttributeProto.TENSOR,
)  # fmt: skip
