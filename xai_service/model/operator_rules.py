"""What each operator that a served graph may hold makes of shapes, and how much work it does for a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, TensorProto

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xai_service.model.operators import Follower

ML = "ai.onnx.ml"
TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)

Dim = int
"""A size, or for n rows of the input n times as much, as a negative number: -3 is 3 · n."""
Shape = tuple[Dim, ...]


def _size(shape: Shape) -> int:
    return abs(math.prod(shape))


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _same(_: Follower, inputs: list[Shape]) -> list[Shape]:
    return [inputs[0]]


def _cast(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    if follower.attribute("to") not in TYPES:
        follower.refuse("casts to a type that is not served")
    return [inputs[0]]


def _broadcast(_: Follower, inputs: list[Shape]) -> list[Shape]:
    rank = max(len(one) for one in inputs)
    made = []
    for dims in zip(*((1,) * (rank - len(one)) + one for one in inputs), strict=True):
        others = {one for one in dims if one != 1}
        if len(others) > 1:
            raise ValueError(f"the sizes {dims} do not go together")
        made.append(others.pop() if others else 1)
    return [tuple(made)]


def _matmul(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2] or left[-1] < 0:
        raise ValueError(f"the shapes {left} and {right} do not go together")
    (before,) = _broadcast(follower, [left[:-2], right[:-2]]) if len(left) + len(right) > 4 else [()]
    shape = (*before, left[-2], right[-1])
    follower.add_work(_size(shape) * left[-1])
    return [shape]


def _gemm(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs[0], inputs[1]
    left = left[::-1] if follower.attribute("transA", 0) else left
    right = right[::-1] if follower.attribute("transB", 0) else right
    if len(left) != 2 or len(right) != 2:
        raise ValueError("Gemm multiplies matrices")
    return _matmul(follower, [left, right])


def _reduce(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    shape = inputs[0]
    axes = follower.constant(1, "axes")
    if str(follower.attribute("axis", "")) != "":
        axes = [int(follower.attribute("axis"))]
    elif axes is None:
        axes = [0] if "Arg" in str(follower.node.op_type) else list(range(len(shape)))
    gone = {_axis(axis, len(shape)) for axis in axes}
    if any(shape[axis] < 0 for axis in gone):
        follower.refuse("puts rows together")
    follower.add_work(_size(shape))
    kept = bool(follower.attribute("keepdims", 1))
    return [tuple(1 if i in gone else one for i, one in enumerate(shape) if kept or i not in gone)]


def _along(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    """Softmax and its like, whose axis may not be that of the rows."""
    axis = _axis(int(follower.attribute("axis", -1)), len(inputs[0]))
    if inputs[0][axis] < 0:
        follower.refuse("puts rows together")
    return [inputs[0]]


def _concat(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    axis = _axis(int(follower.attribute("axis")), len(inputs[0]))
    if any(len(one) != len(inputs[0]) or one[axis] < 0 for one in inputs):
        follower.refuse("puts rows together")
    rests = {one[:axis] + one[axis + 1 :] for one in inputs}
    if len(rests) != 1:
        raise ValueError("the shapes do not go together")
    return [(*inputs[0][:axis], sum(one[axis] for one in inputs), *inputs[0][axis + 1 :])]


def _reshape(follower: Follower, inputs: list[Shape]) -> list[Shape]:
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


def _flatten(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    axis = int(follower.attribute("axis", 1))
    axis = axis if axis == len(inputs[0]) else _axis(axis, len(inputs[0]))
    return [(math.prod(inputs[0][:axis]), math.prod(inputs[0][axis:]))]


def _transpose(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    order = [int(one) for one in follower.attribute("perm", range(len(inputs[0]))[::-1])]
    if sorted(order) != list(range(len(inputs[0]))):
        raise ValueError("perm is no order of the axes")
    return [tuple(inputs[0][axis] for axis in order)]


def _squeeze(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    axes = follower.constant(1, "axes")
    if axes is None:
        raise ValueError("the axes are not known")
    gone = {_axis(axis, len(inputs[0])) for axis in axes}
    if any(inputs[0][axis] != 1 for axis in gone):
        raise ValueError("an axis is not 1")
    return [tuple(one for i, one in enumerate(inputs[0]) if i not in gone)]


def _unsqueeze(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    axes = follower.constant(1, "axes")
    if axes is None:
        raise ValueError("the axes are not known")
    rank = len(inputs[0]) + len(axes)
    places = {_axis(axis, rank) for axis in axes}
    rest = iter(inputs[0])
    return [tuple(1 if i in places else next(rest) for i in range(rank))]


def _topk(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    (k,) = follower.constant(1) or [0]
    axis = _axis(int(follower.attribute("axis", -1)), len(inputs[0]))
    if not 0 < k <= inputs[0][axis]:
        raise ValueError(f"{k} of {inputs[0][axis]}")
    follower.add_work(_size(inputs[0]) * 16)
    shape = (*inputs[0][:axis], k, *inputs[0][axis + 1 :])
    return [shape, shape]


def _extract(_: Follower, inputs: list[Shape]) -> list[Shape]:
    if inputs[0][-1] < 0:
        raise ValueError("it looks for columns among the rows")
    return [((*inputs[0][:-1],) or (1,)) + (math.prod(inputs[1]),)]


def _cdist(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    left, right = inputs
    if len(left) != 2 or len(right) != 2 or left[1] != right[1]:
        raise ValueError("the shapes do not go together")
    follower.add_work(_size((left[0], right[0])) * left[1])
    return [(left[0], right[0])]


def _of_rows(follower: Follower, inputs: list[Shape]) -> tuple[Dim, int]:
    if len(inputs) != 1 or len(inputs[0]) != 2 or inputs[0][0] >= 0:
        follower.refuse("reads what are no rows")
    return inputs[0]


def _scaled(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    """Scaler and Imputer, one number for each column, or one for all."""
    _, features = _of_rows(follower, inputs)
    for one in follower.node.attribute:
        if one.type == AttributeProto.FLOATS and len(one.floats) not in (1, features):
            raise ValueError(f"{one.name} has {len(one.floats)} numbers for {features} columns")
    return [inputs[0]]


def _linear(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    targets = int(follower.attribute("targets", 1))
    _check_length(follower, "coefficients", targets * features)
    if follower.attribute("intercepts") is not None:
        _check_length(follower, "intercepts", targets)
    follower.add_work(targets * features)
    return [(rows, targets)]


def _classes(follower: Follower) -> int:
    labels = [follower.attribute(name) or [] for name in ("classlabels_ints", "classlabels_strings")]
    if bool(labels[0]) == bool(labels[1]):
        raise ValueError("there must be labels, of one kind")
    return max(map(len, labels))


def _linear_classes(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    classes = _classes(follower)
    sets = len(follower.attribute("coefficients", [])) // features
    if sets not in (1, classes):
        raise ValueError(f"coefficients are of {sets} classes, labels of {classes}")
    _check_length(follower, "coefficients", sets * features)
    _check_length(follower, "intercepts", sets)
    follower.add_work(sets * features)
    return [(rows,), (rows, max(2, classes))]


def _svm_regressor(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    rows, features = _of_rows(follower, inputs)
    vectors = int(follower.attribute("n_supports", 0))
    _check_vectors(follower, features, vectors)
    _check_length(follower, "coefficients", vectors or features)
    _check_length(follower, "rho", 1)
    return [(rows, 1)]


def _svm_classifier(follower: Follower, inputs: list[Shape]) -> list[Shape]:
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


def _check_vectors(follower: Follower, features: int, vectors: int) -> None:
    _check_length(follower, "support_vectors", vectors * features)
    _check_length(follower, "kernel_params", 3)
    if follower.attribute("kernel_type", b"LINEAR") not in (b"LINEAR", b"POLY", b"RBF", b"SIGMOID"):
        raise ValueError("its kernel is not known")
    if vectors < 1:
        raise ValueError("it has no support vectors")
    follower.add_work(vectors * features)


def _check_length(follower: Follower, name: str, due: int) -> None:
    found = len(follower.attribute(name) or [])
    if found != due:
        raise ValueError(f"{name} has {found} numbers; {due} are due")


def _held(follower: Follower, _: list[Shape]) -> list[Shape]:
    tensor = follower.attribute("value")
    if not isinstance(tensor, TensorProto):
        follower.refuse("is read with one tensor for its value only")
    return [follower.hold(tensor)]


def _gather(follower: Follower, inputs: list[Shape]) -> list[Shape]:
    axis = _axis(int(follower.attribute("axis", 0)), len(inputs[0]))
    if inputs[0][axis] < 0:
        follower.refuse("puts rows together")
    return [(*inputs[0][:axis], *inputs[1], *inputs[0][axis + 1 :])]


RULES: Mapping[str, Any] = {
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
    f"{ML}:ArrayFeatureExtractor": _extract, f"{ML}:Imputer": _scaled, f"{ML}:LinearClassifier": _linear_classes,
    f"{ML}:LinearRegressor": _linear, f"{ML}:Normalizer": _scaled, f"{ML}:SVMClassifier": _svm_classifier,
    f"{ML}:SVMRegressor": _svm_regressor, f"{ML}:Scaler": _scaled, "com.microsoft:CDist": _cdist,
}  # fmt: skip
