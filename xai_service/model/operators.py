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

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VALUES = 1 << 20  # that are computed for one row, all together
MAX_WORK = 1 << 28  # multiplications and the like, for one row
_MAX_CONSTANTS = 1 << 26  # values computed of constants alone
_MAX_NODES = 512
_MAX_RANK = 6
_OPSETS = range(13, 22)
_ML_OPSETS = range(1, 5)
_ML = "ai.onnx.ml"
_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)

Dim = int
"""A size, or for n rows of the input n times as much, as a negative number: -3 is 3 · n."""
Shape = tuple[Dim, ...]


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
    follower = _Follower({str(one.name): one for one in graph.initializer}, (-1, n_features))
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
        taken: Mapping[str, range] = {"": _OPSETS, "ai.onnx": _OPSETS, _ML: _ML_OPSETS, "com.microsoft": range(1, 2)}
        if entry.version not in taken.get(str(entry.domain), ()):
            raise InvalidModel(f"opset {entry.version} of {str(entry.domain)[:64] or 'ai.onnx'!r} is not supported")


class _Follower:
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
        self._place, self._node = 0, onnx.NodeProto()

    def follow(self, place: int, node: onnx.NodeProto) -> None:
        """Finds the shapes of the node's outputs."""
        self._place, self._node = place, node
        name = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)
        rule = _RULES.get(name)
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
        if tensor.data_type not in _TYPES or len(tensor.dims) > _MAX_RANK or any(one < 0 for one in tensor.dims):
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
        node = self._node
        label = f" {str(node.name)[:64]!r}" if node.name else ""
        raise InvalidModel(
            f"operator {self._place}{label} ({str(node.domain)[:64] or 'ai.onnx'}:{str(node.op_type)[:64]}) {why}"
        )

    def attribute(self, name: str, default: Any = None) -> Any:
        """Returns an attribute's value, or the default."""
        found = [one for one in self._node.attribute if one.name == name]
        return helper.get_attribute_value(found[0]) if found else default

    def constant(self, place: int, name: str = "") -> list[int] | None:
        """Returns whole numbers that an input holds, or an attribute in older opsets; ``None`` where neither is."""
        if place < len(self._node.input) and self._node.input[place]:
            tensor = self._held.get(str(self._node.input[place]))
            if tensor is None or tensor.data_type != TensorProto.INT64 or math.prod(tensor.dims) > _MAX_RANK:
                self.refuse(f"has an input {place} that is no constant of a few whole numbers")
            return [int(one) for one in np.asarray(numpy_helper.to_array(tensor)).ravel()]
        given = self.attribute(name) if name else None
        return None if given is None else [int(one) for one in np.atleast_1d(given)]

    def hold(self, tensor: TensorProto) -> Shape:
        """Notes a constant that stands in the graph itself."""
        shape = self._checked(tensor)
        self._held[str(self._node.output[0])] = tensor
        return shape


_ATTRIBUTES = (
    AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.STRING,
    AttributeProto.STRINGS, AttributeProto.TENSOR,
)  # fmt: skip


def _size(shape: Shape) -> int:
    return abs(math.prod(shape))


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _same(_: _Follower, inputs: list[Shape]) -> list[Shape]:
    return [inputs[0]]


def _cast(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    if follower.attribute("to") not in _TYPES:
        follower.refuse("casts to a type that is not served")
    return [inputs[0]]


def _broadcast(_: _Follower, inputs: list[Shape]) -> list[Shape]:
    rank = max(len(one) for one in inputs)
    made = []
    for dims in zip(*((1,) * (rank - len(one)) + one for one in inputs), strict=True):
        others = {one for one in dims if one != 1}
        if len(others) > 1:
            raise ValueError(f"the sizes {dims} do not go together")
        made.append(others.pop() if others else 1)
    return [tuple(made)]


def _matmul(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2] or left[-1] < 0:
        raise ValueError(f"the shapes {left} and {right} do not go together")
    (before,) = _broadcast(follower, [left[:-2], right[:-2]]) if len(left) + len(right) > 4 else [()]
    shape = (*before, left[-2], right[-1])
    follower.add_work(_size(shape) * left[-1])
    return [shape]


def _gemm(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs[0], inputs[1]
    left = left[::-1] if follower.attribute("transA", 0) else left
    right = right[::-1] if follower.attribute("transB", 0) else right
    if len(left) != 2 or len(right) != 2:
        raise ValueError("Gemm multiplies matrices")
    return _matmul(follower, [left, right])


def _reduce(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    shape = inputs[0]
    axes = follower.constant(1, "axes")
    if str(follower.attribute("axis", "")) != "":
        axes = [int(follower.attribute("axis"))]
    elif axes is None:
        axes = [0] if "Arg" in str(follower._node.op_type) else list(range(len(shape)))  # noqa: SLF001 (its own rule)
    gone = {_axis(axis, len(shape)) for axis in axes}
    if any(shape[axis] < 0 for axis in gone):
        follower.refuse("puts rows together")
    follower.add_work(_size(shape))
    kept = bool(follower.attribute("keepdims", 1))
    return [tuple(1 if i in gone else one for i, one in enumerate(shape) if kept or i not in gone)]


def _along(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    """Softmax and its like, whose axis may not be that of the rows."""
    axis = _axis(int(follower.attribute("axis", -1)), len(inputs[0]))
    if inputs[0][axis] < 0:
        follower.refuse("puts rows together")
    return [inputs[0]]


def _concat(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    axis = _axis(int(follower.attribute("axis")), len(inputs[0]))
    if any(len(one) != len(inputs[0]) or one[axis] < 0 for one in inputs):
        follower.refuse("puts rows together")
    rests = {one[:axis] + one[axis + 1 :] for one in inputs}
    if len(rests) != 1:
        raise ValueError("the shapes do not go together")
    return [(*inputs[0][:axis], sum(one[axis] for one in inputs), *inputs[0][axis + 1 :])]


def _reshape(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    wanted = follower.constant(1)
    if wanted is None or follower.attribute("allowzero", 0) or wanted.count(-1) > 1 or any(one < -1 for one in wanted):
        raise ValueError("the new shape is not known")
    shape = [inputs[0][i] if one == 0 else one for i, one in enumerate(wanted)]
    open_at = [i for i, one in enumerate(wanted) if one == -1]
    total, fixed = math.prod(inputs[0]), math.prod(one for i, one in enumerate(shape) if i not in open_at)
    if open_at:
        if fixed == 0 or total % fixed:
            raise ValueError(f"{inputs[0]} does not fill {wanted}")
        shape[open_at[0]] = total // fixed
    elif fixed != total:
        raise ValueError(f"{inputs[0]} does not fill {wanted}")
    return [tuple(shape)]


def _flatten(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    axis = int(follower.attribute("axis", 1))
    axis = axis if axis == len(inputs[0]) else _axis(axis, len(inputs[0]))
    return [(math.prod(inputs[0][:axis]), math.prod(inputs[0][axis:]))]


def _transpose(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    order = [int(one) for one in follower.attribute("perm", range(len(inputs[0]))[::-1])]
    if sorted(order) != list(range(len(inputs[0]))):
        raise ValueError("perm is no order of the axes")
    return [tuple(inputs[0][axis] for axis in order)]


def _squeeze(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    axes = follower.constant(1, "axes")
    if axes is None:
        raise ValueError("the axes are not known")
    gone = {_axis(axis, len(inputs[0])) for axis in axes}
    if any(inputs[0][axis] != 1 for axis in gone):
        raise ValueError("an axis is not 1")
    return [tuple(one for i, one in enumerate(inputs[0]) if i not in gone)]


def _unsqueeze(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    axes = follower.constant(1, "axes")
    if axes is None:
        raise ValueError("the axes are not known")
    rank = len(inputs[0]) + len(axes)
    places = {_axis(axis, rank) for axis in axes}
    rest = iter(inputs[0])
    return [tuple(1 if i in places else next(rest) for i in range(rank))]


def _topk(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    (k,) = follower.constant(1) or [0]
    axis = _axis(int(follower.attribute("axis", -1)), len(inputs[0]))
    if not 0 < k <= inputs[0][axis]:
        raise ValueError(f"{k} of {inputs[0][axis]}")
    follower.add_work(_size(inputs[0]) * 16)
    shape = (*inputs[0][:axis], k, *inputs[0][axis + 1 :])
    return [shape, shape]


def _extract(_: _Follower, inputs: list[Shape]) -> list[Shape]:
    if inputs[0][-1] < 0:
        raise ValueError("it looks for columns among the rows")
    return [((*inputs[0][:-1],) or (1,)) + (math.prod(inputs[1]),)]


def _cdist(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs
    if len(left) != 2 or len(right) != 2 or left[1] != right[1]:
        raise ValueError("the shapes do not go together")
    follower.add_work(_size((left[0], right[0])) * left[1])
    return [(left[0], right[0])]


def _of_rows(follower: _Follower, inputs: list[Shape]) -> tuple[Dim, int]:
    if len(inputs) != 1 or len(inputs[0]) != 2 or inputs[0][0] >= 0:
        follower.refuse("reads what are no rows")
    return inputs[0]


def _scaled(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    """Scaler and Imputer, one number for each column, or one for all."""
    _, features = _of_rows(follower, inputs)
    for one in follower._node.attribute:  # noqa: SLF001 (its own rule)
        if one.type == AttributeProto.FLOATS and len(one.floats) not in (1, features):
            raise ValueError(f"{one.name} has {len(one.floats)} numbers for {features} columns")
    return [inputs[0]]


def _linear(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    targets = int(follower.attribute("targets", 1))
    _check_length(follower, "coefficients", targets * features)
    if follower.attribute("intercepts") is not None:
        _check_length(follower, "intercepts", targets)
    follower.add_work(targets * features)
    return [(rows, targets)]


def _classes(follower: _Follower) -> int:
    labels = [follower.attribute(name) or [] for name in ("classlabels_ints", "classlabels_strings")]
    if bool(labels[0]) == bool(labels[1]):
        raise ValueError("there must be labels, of one kind")
    return max(map(len, labels))


def _linear_classes(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    classes = _classes(follower)
    sets = len(follower.attribute("coefficients", [])) // features
    if sets not in (1, classes):
        raise ValueError(f"coefficients are of {sets} classes, labels of {classes}")
    _check_length(follower, "coefficients", sets * features)
    _check_length(follower, "intercepts", sets)
    follower.add_work(sets * features)
    return [(rows,), (rows, max(2, classes))]


def _svm_regressor(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    vectors = int(follower.attribute("n_supports", 0))
    _check_vectors(follower, features, vectors)
    _check_length(follower, "coefficients", vectors or features)
    _check_length(follower, "rho", 1)
    return [(rows, 1)]


def _svm_classifier(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    classes = _classes(follower)
    by_class = [int(one) for one in follower.attribute("vectors_per_class", [])]
    if len(by_class) != classes or min(by_class) < 0 or classes < 2:
        raise ValueError("vectors_per_class does not go with the labels")
    vectors, pairs = sum(by_class), classes * (classes - 1) // 2
    _check_vectors(follower, features, vectors)
    _check_length(follower, "coefficients", vectors * (classes - 1))
    _check_length(follower, "rho", pairs)
    has_shares = [len(follower.attribute(name) or []) for name in ("prob_a", "prob_b")]
    if has_shares != [pairs, pairs]:
        raise ValueError("it has no probabilities: train with probability=True")
    follower.add_work(vectors * classes + classes**3)
    return [(rows,), (rows, classes)]


def _check_vectors(follower: _Follower, features: int, vectors: int) -> None:
    _check_length(follower, "support_vectors", vectors * features)
    _check_length(follower, "kernel_params", 3)
    if follower.attribute("kernel_type", b"LINEAR") not in (b"LINEAR", b"POLY", b"RBF", b"SIGMOID"):
        raise ValueError("its kernel is not known")
    if vectors < 1:
        raise ValueError("it has no support vectors")
    follower.add_work(vectors * features)


def _check_length(follower: _Follower, name: str, due: int) -> None:
    found = len(follower.attribute(name) or [])
    if found != due:
        raise ValueError(f"{name} has {found} numbers; {due} are due")


def _held(follower: _Follower, _: list[Shape]) -> list[Shape]:
    tensor = follower.attribute("value")
    if not isinstance(tensor, TensorProto):
        follower.refuse("is read with one tensor for its value only")
    return [follower.hold(tensor)]


def _gather(follower: _Follower, inputs: list[Shape]) -> list[Shape]:
    axis = _axis(int(follower.attribute("axis", 0)), len(inputs[0]))
    if inputs[0][axis] < 0:
        follower.refuse("puts rows together")
    return [(*inputs[0][:axis], *inputs[1], *inputs[0][axis + 1 :])]


_RULES: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "Abs", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "Identity", "IsNaN", "LeakyRelu",
            "Log", "Neg", "Not", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt",
            "Tanh",
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min",
            "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where",
        ),
        _broadcast,
    ),
    **dict.fromkeys(
        (
            "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
            "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
        ),
        _reduce,
    ),
    "Cast": _cast, "Concat": _concat, "Constant": _held, "Flatten": _flatten, "Gather": _gather, "Gemm": _gemm,
    "LogSoftmax": _along, "MatMul": _matmul, "Reshape": _reshape, "Softmax": _along, "Squeeze": _squeeze,
    "TopK": _topk, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
    f"{_ML}:ArrayFeatureExtractor": _extract, f"{_ML}:Imputer": _scaled, f"{_ML}:LinearClassifier": _linear_classes,
    f"{_ML}:LinearRegressor": _linear, f"{_ML}:Normalizer": _scaled, f"{_ML}:SVMClassifier": _svm_classifier,
    f"{_ML}:SVMRegressor": _svm_regressor, f"{_ML}:Scaler": _scaled, "com.microsoft:CDist": _cdist,
}  # fmt: skip
